"""Retention: bound the size of the journal.

Finished jobs are removed after some days, or when the journal exceeds its quota. Versions of files
that are gone are removed at the next check. Free pages beyond the spare ones are returned to the
filesystem.
"""

import asyncio
import contextlib
import time
from typing import Final

import structlog

from wasmdrop.intake.intake import Intake
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.system.mount_threads import MountThreads

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
    inputs = jobs = events = 0
    while any(step := await journal.trim(journal_bytes)):
        inputs += step.inputs
        jobs += step.jobs
        events += step.events
        await journal.shrink()
    if inputs or jobs or events:
        _log.warning(
            "journal-trimmed", jobs=jobs, inputs=inputs, events=events, bound_bytes=journal_bytes
        )


async def _forget(journal: Journal, intake: Intake, period_seconds: float) -> None:
    """Forget the versions of files that are gone, every ``period_seconds``."""
    loop = asyncio.get_running_loop()

    def forget(path: str) -> None:
        loop.call_soon_threadsafe(journal.forget, path)

    threads = MountThreads()
    try:
        while True:
            try:
                # The check looks at all mounts, and itself skips those at which it hangs.
                with contextlib.suppress(TimeoutError):
                    await threads.run(
                        "/", intake.forget_gone, forget, wait_seconds=_LONGEST_CHECK_SECONDS
                    )
            except Exception:  # noqa: BLE001 - jobs do not need it; the next round retries
                _log.exception("retention-failed")
            await asyncio.sleep(period_seconds)
    finally:
        threads.close()


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
