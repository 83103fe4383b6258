"""Housekeeping: what the journal and the memory of taken versions need no more goes.

Promises that neither grows for ever: finished jobs go after a time, or when the journal is larger
than it may be, versions of files that exist no more go at once, and free space beyond what is soon
used again goes back to the filesystem.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from wasmdrop.intake.intake import Intake
from wasmdrop.jobs.journal.writer import Journal

__all__ = ["run_retention"]

_log = structlog.get_logger()

#: How often the journal's size is looked at, in seconds: it takes some microseconds.
_TRIM_SECONDS: Final = 2.0

#: How long to wait for a look at all files; one that hangs is left, and its mount with it.
_LONGEST_LOOK_SECONDS: Final = 60.0

_DAY_NS: Final = 86_400 * 1_000_000_000


async def run_retention(
    journal: Journal, intake: Intake, keep_days: float, journal_bytes: int, period_seconds: float
) -> None:
    """Tidy up every ``period_seconds``, and keep the journal in its bound, until cancelled."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    # Beside the others: it looks at files, and a mount that hangs may hold it.
    forgetting = asyncio.create_task(_forget(journal, intake, period_seconds))
    try:
        while True:
            try:
                await _trim(journal, journal_bytes)
                if loop.time() >= due:
                    due = loop.time() + period_seconds
                    await _tidy_up(journal, keep_days)
            except Exception:  # noqa: BLE001 - nothing that jobs need; the next round tries again
                _log.exception("retention-failed")
            await asyncio.sleep(min(period_seconds, _TRIM_SECONDS))
    finally:
        forgetting.cancel()


async def _trim(journal: Journal, journal_bytes: int) -> None:
    """Remove the oldest of what the journal holds of finished jobs, if it is too much."""
    inputs = jobs = 0
    while any(step := await journal.trim(journal_bytes)):
        inputs += step.inputs
        jobs += step.jobs
        await journal.shrink()
    if inputs or jobs:
        _log.warning("journal-trimmed", jobs=jobs, inputs=inputs, bound_bytes=journal_bytes)


async def _forget(journal: Journal, intake: Intake, period_seconds: float) -> None:
    """Forget the versions of files that exist no more, every ``period_seconds``."""
    loop = asyncio.get_running_loop()

    def forget(path: str) -> None:
        loop.call_soon_threadsafe(journal.forget, path)

    while True:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_LOOK_SECONDS):
                    await _aside(lambda: intake.forget_gone(forget))
        except Exception:  # noqa: BLE001 - nothing that jobs need; the next round tries again
            _log.exception("retention-failed")
        await asyncio.sleep(period_seconds)


async def _tidy_up(journal: Journal, keep_days: float) -> None:
    before_ns = time.time_ns() - int(keep_days * _DAY_NS)
    pruned = 0
    while removed := await journal.prune(before_ns):
        pruned += removed
    freed = 0
    while pages := await journal.shrink():
        freed += pages
    if pruned or freed:
        _log.info("journal-pruned", jobs=pruned, pages=freed)


async def _aside(look: Callable[[], None]) -> None:
    """Run ``look`` on a thread that nobody waits for at the end: a dead server may hold it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def answer(error: Exception | None) -> None:
        if ended.done():
            return  # whoever waited was cancelled
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def run() -> None:
        error = None
        try:
            look()
        except Exception as caught:  # noqa: BLE001 - raised again where it is waited for
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(answer, error)

    threading.Thread(target=run, name="housekeeping", daemon=True).start()
    await ended
