"""Wait at start for a disk that is full: a restart would free no space, and only repeat the start.

The start makes directories, lock files and the journal. If it fails because a disk has no room for
them, the process stays alive and not ready, and begins the start again after a pause.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from wasmdrop.protocol.errors import WasmdropError
from wasmdrop.service.health.liveness import Liveness
from wasmdrop.service.health.probes import Health, Page
from wasmdrop.service.shutdown import Shutdown
from wasmdrop.service.systemd import extend_start, notify, watchdog_seconds
from wasmdrop.settings import Settings
from wasmdrop.system.full_disks import is_of_full_disk
from wasmdrop.web.message import HttpRequest, HttpResponse

_log = structlog.get_logger()

#: Less than SQLite needs to open a journal and its log, in bytes.
_JOURNAL_BYTES: Final = 64 * 1024

#: Pauses between two starts, in seconds: the first one, which doubles, and the longest one.
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 10.0


async def start_with_room(
    start: Callable[[], Awaitable[None]], settings: Settings, shutdown: Shutdown
) -> None:
    """Call ``start``, again while it fails because a disk is full, until ``shutdown`` is asked.

    Serves the health checks in the pauses. Raises the errors of ``start`` that have other causes.
    """
    pause_seconds, known = _FIRST_PAUSE_SECONDS, ""
    while not shutdown.asked.is_set():
        try:
            await start()
        except WasmdropError as error:
            if not lacks_room(error, settings.state_dir):
                raise
            reason = str(error)
        else:
            return
        if reason != known:
            known = reason
            _log.warning("start-postponed", reason=reason)
        extend_start()
        notify(f"STATUS=waiting for disk space: {reason}")
        await _pause(pause_seconds, reason, settings, shutdown)
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
    _log.info("stopped")


def lacks_room(error: BaseException, state_dir: Path) -> bool:
    """Whether a full disk caused an error of the start; ``state_dir`` has the journal."""
    if is_of_full_disk(error):
        return True
    # SQLite reports several errors if it can't make or extend its files, without the cause.
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, sqlite3.OperationalError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None and _is_full(state_dir)


def _is_full(directory: Path) -> bool:
    try:
        status = os.statvfs(directory)
    except OSError:
        return False
    has_no_files = status.f_files > 0 and status.f_favail == 0
    return has_no_files or status.f_bavail * status.f_frsize < _JOURNAL_BYTES


async def _pause(seconds: float, reason: str, settings: Settings, shutdown: Shutdown) -> None:
    liveness = Liveness({}, lambda: None, watchdog_seconds())
    health = Health(liveness, {}, lambda: f"waiting for disk space: {reason}")
    async with health.served(settings.http, _NoSources()):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await shutdown.asked.wait()


class _NoSources:
    """The metrics of a process that has no parts yet."""

    def page(self, is_ready: Callable[[], bool]) -> Page:
        """Return the page."""
        assert not is_ready()  # noqa: S101 - it waits
        return self

    async def answer(self, _request: HttpRequest) -> HttpResponse:
        """Return the one metric that is known, for alerts."""
        text = b"# TYPE wasmdrop_ready gauge\nwasmdrop_ready 0\n"
        return HttpResponse(200, text, "text/plain; version=0.0.4; charset=utf-8")
