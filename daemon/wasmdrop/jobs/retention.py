"""Retention: bound the size of the journal.

Finished jobs are removed after some days, or when the journal exceeds its quota. Versions of files
that are gone are removed at the next check. Free pages beyond the spare ones are returned to the
filesystem.
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

#: How often the journal's size is checked, in seconds; a check takes some microseconds.
_TRIM_SECONDS: Final = 2.0

#: How long a check of all files may take, in seconds; one that hangs on a mount is abandoned.
_LONGEST_CHECK_SECONDS: Final = 60.0

_DAY_NS: Final = 86_400 * 1_000_000_000


async def run_retention(
    journal: Journal, intake: Intake, keep_days: float, journal_bytes: int, period_seconds: float
) -> None:
    """Apply retention every ``period_seconds``, and the quota more often, until cancelled."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    # A task of its own, because a mount that hangs may block it.
    forgetting = asyncio.create_task(_forget(journal, intake, period_seconds))
    try:
        while True:
            try:
                await _trim(journal, journal_bytes)
                if loop.time() >= due:
                    due = loop.time() + period_seconds
                    await _prune(journal, keep_days)
            except Exception:  # noqa: BLE001 - jobs do not need it; the next round retries
                _log.exception("retention-failed")
            await asyncio.sleep(min(period_seconds, _TRIM_SECONDS))
    finally:
        forgetting.cancel()


async def _trim(journal: Journal, journal_bytes: int) -> None:
    """Remove the oldest finished jobs while the journal exceeds its quota."""
    inputs = jobs = 0
    while any(step := await journal.trim(journal_bytes)):
        inputs += step.inputs
        jobs += step.jobs
        await journal.shrink()
    if inputs or jobs:
        _log.warning("journal-trimmed", jobs=jobs, inputs=inputs, bound_bytes=journal_bytes)


async def _forget(journal: Journal, intake: Intake, period_seconds: float) -> None:
    """Forget the versions of files that are gone, every ``period_seconds``."""
    loop = asyncio.get_running_loop()

    def forget(path: str) -> None:
        loop.call_soon_threadsafe(journal.forget, path)

    while True:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_CHECK_SECONDS):
                    await _run_on_thread(lambda: intake.forget_gone(forget))
        except Exception:  # noqa: BLE001 - jobs do not need it; the next round retries
            _log.exception("retention-failed")
        await asyncio.sleep(period_seconds)


async def _prune(journal: Journal, keep_days: float) -> None:
    before_ns = time.time_ns() - int(keep_days * _DAY_NS)
    pruned = 0
    while removed := await journal.prune(before_ns):
        pruned += removed
    freed = 0
    while pages := await journal.shrink():
        freed += pages
    if pruned or freed:
        _log.info("journal-pruned", jobs=pruned, pages=freed)


async def _run_on_thread(check: Callable[[], None]) -> None:
    """Run ``check`` on a daemon thread, which may hang without keeping the process from ending."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def end(error: Exception | None) -> None:
        if ended.done():
            return  # it was cancelled
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def run() -> None:
        error = None
        try:
            check()
        except Exception as caught:  # noqa: BLE001 - raised in the waiting task
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(end, error)

    threading.Thread(target=run, name="retention", daemon=True).start()
    await ended
