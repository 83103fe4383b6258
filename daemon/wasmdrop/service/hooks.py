"""Check and start the completion hook; imported only if there is one."""

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from wasmdrop.hooks.command import CommandHook
from wasmdrop.hooks.hook import Hook
from wasmdrop.hooks.sender import HookSender
from wasmdrop.hooks.signature import parse_secret
from wasmdrop.hooks.webhook import Webhook
from wasmdrop.jobs.journal.event_queue import EventQueue
from wasmdrop.protocol.errors import MalformedError, SettingsError
from wasmdrop.service.secret_places import require_outside
from wasmdrop.settings import Settings
from wasmdrop.settings.formats import printable
from wasmdrop.system.processes import forbid_inspection
from wasmdrop.system.secret_files import NotSecretError, read_secret
from wasmdrop.web.url import HttpUrl, origin_of, split_url, target_of

_log = structlog.get_logger()

VARIABLE: Final = "WASMDROP_ON_FINISHED"
SECRET_VARIABLE: Final = "WASMDROP_ON_FINISHED_SECRET_FILE"  # noqa: S105 - a name

_MAX_SECRET_BYTES: Final = 4096
_DAY_SECONDS: Final = 86_400.0

#: Names of this host: requests to them cross no network.
_LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class HookSettingsError(SettingsError):
    """A hook that can't be used. The text is one line, which ends in the advice."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(f"{found}; {advice}")
        self.found = found
        self.advice = advice


def load_hook(settings: Settings) -> Hook:
    """Return the hook of the settings, which must have one.

    Raises ``HookSettingsError`` if the URL, the secret or the command can't be used.
    """
    target = settings.on_finished
    if isinstance(target, str):
        key = None if settings.on_finished_secret_file is None else _read_key(settings)
        return Webhook(parse_url(target), f"/wasmdrop/{settings.fleet_name}", key)
    if settings.on_finished_secret_file is not None:
        raise HookSettingsError(
            f"{SECRET_VARIABLE}: {VARIABLE} is a command, and only requests to a URL are signed",
            f"unset {SECRET_VARIABLE}",
        )
    words = target or ()
    _require_program(settings, Path(words[0]))
    return CommandHook(words)


def start_sender(hook: Hook, events: EventQueue, settings: Settings) -> HookSender:
    """Begin to send ``events`` to ``hook``."""
    _log.info("hook-used", target=describe_hook(settings), pending=events.pending)
    if (risk := why_readable(settings)) is not None:
        _log.warning("hook-unencrypted", reason=risk)
    sender = HookSender(events, hook, settings.keep_days * _DAY_SECONDS)
    sender.start()
    return sender


def read_key_again(hook: Hook, settings: Settings) -> Callable[[], None]:
    """Read the secret again and return how to sign with it. Raises ``HookSettingsError``."""
    if not isinstance(hook, Webhook) or settings.on_finished_secret_file is None:
        return lambda: None
    return partial(setattr, hook, "key", _read_key(settings))


def describe_hook(settings: Settings) -> str:
    """Return the server or the program of the hook: the rest may hold a secret."""
    target = settings.on_finished
    if isinstance(target, str):
        origin = parse_url(target).origin
        return f"{'https' if origin.is_encrypted else 'http'}://{origin.host}:{origin.port}"
    return printable(target[0]) if target else "none"


def why_readable(settings: Settings) -> str | None:
    """Return why others on the network can read or change requests; None if they can't."""
    if not isinstance(settings.on_finished, str):
        return None
    origin = parse_url(settings.on_finished).origin
    if origin.is_encrypted or origin.host in _LOCAL_HOSTS:
        return None
    return f"markers go to {origin.host} without TLS, and anyone on the way can read them"


def parse_url(text: str) -> HttpUrl:
    """Return the URL of a webhook. Raises ``HookSettingsError``."""
    try:
        url = split_url(VARIABLE, text, "an http:// or https:// URL in the characters of RFC 3986")
        return HttpUrl(origin_of(VARIABLE, url), target_of(url), text)
    except SettingsError as error:
        raise HookSettingsError(str(error), "percent-encode others") from None


def _read_key(settings: Settings) -> bytes:
    path = settings.on_finished_secret_file
    assert path is not None  # noqa: S101 - the caller checks it
    forbid_inspection()
    try:
        content, way = read_secret(path, _MAX_SECRET_BYTES)
        require_outside(settings, way)
        return parse_secret(content)
    except NotSecretError as error:
        reason, advice = str(error), error.advice
    except MalformedError as error:
        reason, advice = str(error), "write `whsec_` and 32 random bytes in Base64 into it"
    raise HookSettingsError(f"{SECRET_VARIABLE}: {printable(path)}: {reason}", advice)


def _require_program(settings: Settings, path: Path) -> None:
    """Raise ``HookSettingsError`` unless the file can be executed and others can't change it."""
    user = os.geteuid()
    place = f"{VARIABLE}: {printable(path)}"
    try:
        status = path.stat()
    except OSError as error:
        raise HookSettingsError(
            f"{place}: {error.strerror}", "name a program by its absolute path"
        ) from None
    if not stat.S_ISREG(status.st_mode) or not os.access(path, os.X_OK):
        raise HookSettingsError(
            f"{place}: user {user}, which runs the daemon, can't execute it",
            "name a program, or make it executable (chmod +x)",
        )
    for name, directory in (("shared", settings.shared_dir), ("wasm", settings.wasm_dir)):
        if path.resolve().is_relative_to(directory.resolve()):
            raise HookSettingsError(
                f"{place}: it is in the {name} directory, where producers can replace it",
                "keep it elsewhere",
            )
    if status.st_uid not in {0, user} or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HookSettingsError(
            f"{place}: other users can change it, and it runs as user {user}",
            f"chown it to root or {user}, and chmod go-w it",
        )
