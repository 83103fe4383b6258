"""Retention: bound the size of the journal.

Finished jobs are removed after some days, or when the journal exceeds its quota. Free pages beyond
the spare ones are returned to the filesystem.
"""

import asyncio
import time
from typing import Final

import structlog

from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.settings import Settings

_log = structlog.get_logger()

#: How often the journal's size is checked, in seconds; a check takes some microseconds.
_TRIM_SECONDS: Final = 2.0

_DAY_NS: Final = 86_400 * 1_000_000_000


async def run_retention(journal: Journal, settings: Settings) -> None:
    """Apply retention every ``rescan_sec``, and the quota more often, until cancelled."""
    period_seconds = settings.rescan_sec
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        try:
            await _trim(journal, settings.journal_mb * MEBIBYTE)
            if loop.time() >= due:
                due = loop.time() + period_seconds
                await _prune(journal, settings.keep_days)
        except Exception:  # noqa: BLE001 - jobs do not need it; the next round retries
            _log.exception("retention-failed")
        await asyncio.sleep(min(period_seconds, _TRIM_SECONDS))


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
