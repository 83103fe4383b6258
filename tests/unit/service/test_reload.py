"""Reloading: one round for each request, whatever goes wrong in it."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.service.reload import keep_reloading
from wasmdrop.settings import RELOADED, Loaded, Settings, load

ENVIRONMENT = {"WASMDROP_STATE_DIR": "/srv/state", "WASMDROP_CONFIG": "none"}


def loaded(**flags: str) -> Loaded:
    """Return the settings with these flags."""
    return load(ENVIRONMENT, flags)


def reload_each(
    settings: Settings,
    loads: list[Callable[[], Loaded]],
    read_secrets: Callable[[], Callable[[], None]] = lambda: lambda: None,
) -> tuple[list[str], int]:
    """Reload once with each; return the names of the events, and how often settings were used."""
    uses: list[None] = []

    async def rounds() -> None:
        wanted, left = asyncio.Event(), iter(loads)

        def load_next() -> Loaded:
            return next(left)()

        task = asyncio.create_task(
            keep_reloading(
                *(wanted, settings, load_next, RELOADED),
                lambda: uses.append(None),
                read_secrets,
            )
        )
        for number in range(1, len(loads) + 1):
            wanted.set()
            while len([one for one in logs if one["event"] in ENDS]) < number:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        task.cancel()

    with capture_logs() as logs:
        asyncio.run(rounds())
    return [event["event"] for event in logs], len(uses)


ENDS = {"settings-reloaded", "reload-refused", "reload-failed"}


def refuse() -> Loaded:
    """Raise the error of a wrong file."""
    raise SettingsError("config.toml, line 1: attempts: expected an integer")


def fail() -> Loaded:
    """Raise the error of a fault."""
    raise RuntimeError


def test_reload_goes_on_after_a_wrong_file_and_a_fault() -> None:
    """Neither changes anything; the next request is handled."""
    settings = loaded().settings
    events, uses = reload_each(
        settings, [refuse, fail, lambda: loaded(attempts="5", workers="77", drain_sec="2")]
    )
    assert events == [
        "reload-refused",
        "reload-failed",
        "settings-reloaded",
        "settings-need-restart",
    ]
    assert uses == 1
    assert (settings.attempts, settings.drain_sec) == (5, 2)
    assert settings.workers != 77


def test_reload_with_a_secret_that_is_refused_changes_nothing() -> None:
    """A file that is right does not count then."""

    def read_secrets() -> Callable[[], None]:
        raise SettingsError("WASMDROP_PAGE_TOKEN_FILE: it has 3 characters")

    settings = loaded().settings
    events, uses = reload_each(settings, [lambda: loaded(attempts="5")], read_secrets)
    assert (events, uses, settings.attempts) == (["reload-refused"], 0, 3)


def test_reload_does_not_wait_for_storage_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does the end of the process."""
    monkeypatch.setattr("wasmdrop.service.reload._LOAD_SECONDS", 0.05)
    answers = threading.Event()

    def hang() -> Loaded:
        answers.wait()
        return loaded(attempts="5")

    settings = loaded().settings
    events, uses = reload_each(settings, [hang, lambda: loaded(attempts="7")])
    answers.set()
    assert events == ["reload-refused", "settings-reloaded"]
    assert (settings.attempts, uses) == (7, 1)
