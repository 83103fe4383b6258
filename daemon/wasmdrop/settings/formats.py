"""Formats of settings: how their values are read from text."""

import os
import re
import shlex
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from wasmdrop.protocol import strict_json
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.limits import GRANT_NAME
from wasmdrop.protocol.text import describe_value, escaped
from wasmdrop.system.job_user import read_job_user

#: A week. poll(2), which counts milliseconds, allows no more than 24 days.
_MAX_SECONDS: Final = 604_800
_MAX_DAYS: Final = 36_500
#: A tebibyte, in MiB.
_MAX_MB: Final = 1024 * 1024
_MAX_PORT: Final = 65_535

#: The URL of a NATS server; keys and passwords in it would show in logs.
_FLEET_SERVER: Final = re.compile(
    r"(?:nats|tls)://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?/?"
)

#: A job that asks for all grants must stay below its limit of open files.
_MAX_GRANTS: Final = 16


class ValueFormat(msgspec.Struct, frozen=True):
    """How a value is read from text. ``read`` raises ``ValueError``, possibly with a reason."""

    metavar: str
    expected: str
    read: Callable[[str], Any]


def integer(low: int, high: int) -> ValueFormat:
    """Return the format of integers in a range."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,20}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return ValueFormat("N", f"an integer from {low} to {high}", read)


def positive(metavar: str, what: str, most: int, *, or_zero: bool = False) -> ValueFormat:
    """Return the format of decimal numbers up to ``most``."""

    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", text):
            raise ValueError
        value = float(text)
        if value > most or (value == 0 and not or_zero):
            raise ValueError
        return value

    least = "0 or more" if or_zero else "more than 0"
    return ValueFormat(metavar, f"{what}, {least} and at most {most}", read)


def choice(options: type[StrEnum]) -> ValueFormat:
    """Return the format of the values of an enumeration."""
    names = [option.value for option in options]

    def read(text: str) -> StrEnum:
        if text not in names:
            raise ValueError
        return options(text)

    expected = f"{', '.join(names[:-1])} or {names[-1]}"
    return ValueFormat("|".join(names), expected, read)


def _read_path(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(os.path.abspath(text))  # noqa: PTH100 - Path.resolve would follow links


def _read_result_path(text: str) -> Path:
    path = _read_path(text)
    if path.suffix not in {".txt", ".json"}:
        raise ValueError
    return path


def none_or(value_format: ValueFormat) -> ValueFormat:
    """Return the format of values that may be missing."""

    def read(text: str) -> Any:
        return None if text == "none" else value_format.read(text)

    return ValueFormat(value_format.metavar, f"none or {value_format.expected}", read)


def _read_hook(text: str) -> str | tuple[str, ...] | None:
    if text == "none":
        return None
    if "://" in text.partition(" ")[0]:
        url = urlsplit(text)
        if url.scheme not in {"http", "https"} or not url.hostname or not text.isprintable():
            raise ValueError
        if url.username is not None or url.password is not None:
            raise ValueError("a user name or password would show in logs")
        if url.port == 0 or url.fragment or " " in text:
            raise ValueError
        return text
    command = tuple(shlex.split(text))
    if not command or not command[0].startswith("/"):
        raise ValueError
    return command


def _read_address(text: str) -> str | None:
    if text == "off":
        return None
    found = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:/\s]*):([0-9]{1,5})", text)
    if found is None or int(found[1]) > _MAX_PORT:
        raise ValueError
    return text


def _read_fleet_servers(text: str) -> tuple[str, ...]:
    if text == "off":
        return ()
    servers = tuple(text.split(","))
    for one in servers:
        found = _FLEET_SERVER.fullmatch(one)
        if found is None or int(found[1] or 1) not in range(1, _MAX_PORT + 1):
            if len(servers) == 1:
                raise ValueError
            raise ValueError(f"in {describe_value(one)}")
    return servers


def _read_fleet_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError
    return text


def _read_grants(text: str) -> dict[str, Path]:
    grants: dict[str, Path] = {}
    if text == "none":
        return grants
    for part in text.split(","):
        name, equals, path = part.partition("=")
        if not equals or not re.fullmatch(GRANT_NAME, name):
            raise ValueError(f"in {describe_value(part)}")
        if name in grants:
            raise ValueError(f"{name} is repeated")
        grants[name] = _read_path(path)
    if len(grants) > _MAX_GRANTS:
        raise ValueError(f"at most {_MAX_GRANTS}")
    return grants


def _read_suffix(text: str) -> str:
    if "/" in text:
        raise ValueError
    return text


def _read_arguments(text: str) -> tuple[Any, ...]:
    try:
        value = strict_json.parse(text.encode())
    except RefusedError as error:
        raise ValueError(error.message) from None
    if isinstance(value, list):
        return tuple(value)
    raise ValueError


def scalar_or_text(text: str) -> Any:
    """Return the JSON scalar that ``text`` is, else ``text`` itself."""
    try:
        value = strict_json.parse(os.fsencode(text))
    except RefusedError:
        return text
    return text if isinstance(value, list | dict) else value


_UNITS: Final = integer(1, 2**64 - 1)
SECONDS: Final = positive("SECONDS", "a number of seconds", _MAX_SECONDS)
WHOLE_MB: Final = integer(1, _MAX_MB)
MB: Final = positive("MIB", "a number of MiB", _MAX_MB)
PATH: Final = ValueFormat("PATH", "a path", _read_path)
RESULT_PATH: Final = ValueFormat("PATH", "a path that ends in .txt or .json", _read_result_path)
NAME: Final = ValueFormat("NAME", "a name", str)
ARGUMENTS: Final = ValueFormat("JSON", "a JSON array", _read_arguments)
ARGUMENT: Final = ValueFormat("VALUE", "a JSON scalar or text", scalar_or_text)
FUEL: Final = none_or(_UNITS)
GRANTS: Final = ValueFormat(
    "NAME=DIR,...", "none or a comma-separated list of NAME=DIR", _read_grants
)
JOB_USER: Final = ValueFormat("USER", "a user name or UID[:GID]", read_job_user)
FLEET_SERVERS: Final = ValueFormat(
    "URL,...",
    "off or a comma-separated list of nats://HOST:PORT or tls://HOST:PORT",
    _read_fleet_servers,
)
FLEET_NAME: Final = ValueFormat("NAME", "up to 64 letters, digits, '-' or '_'", _read_fleet_name)
ADDRESS: Final = ValueFormat("HOST:PORT", "off or HOST:PORT", _read_address)
SUFFIX: Final = ValueFormat("SUFFIX", "a suffix without '/'", _read_suffix)
SECONDS_OR_ZERO: Final = positive("SECONDS", "a number of seconds", _MAX_SECONDS, or_zero=True)
HOOK: Final = ValueFormat(
    "URL|COMMAND",
    "none, an http:// or https:// URL, or a command that begins with an absolute path",
    _read_hook,
)
DAYS: Final = positive("DAYS", "a number of days", _MAX_DAYS, or_zero=True)
DAYS_ABOVE_ZERO: Final = positive("DAYS", "a number of days", _MAX_DAYS)
INT64: Final = integer(-(2**63), 2**64 - 1)


def printable(value: object) -> str:
    """Return ``value`` in one line, with bytes that are not UTF-8 escaped."""
    return escaped(str(value))
