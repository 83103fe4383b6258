"""Recovery: at start, takes up what an earlier daemon left open.

A job that was running is run again, its attempt counted; a job whose marker is already in place is
closed; results that could not be delivered are delivered.
"""

import hashlib

import structlog

from wasmdrop.delivery import MARKER_SUFFIX
from wasmdrop.dispatch import Dispatcher
from wasmdrop.errors import RefusedError
from wasmdrop.intake.reader import ChangedWhileReadError, read_regular
from wasmdrop.job import Job, JobState, Slot
from wasmdrop.journal import Journal
from wasmdrop.outcome import Code
from wasmdrop.report import parse_marker

__all__ = ["is_delivered", "recover"]

_log = structlog.get_logger()

#: Largest marker or result file that is read back.
_MAX_BYTES = 1 << 30


async def recover(journal: Journal, dispatcher: Dispatcher) -> int:
    """Hand every open job to the dispatcher or close it; return how many were open."""
    jobs = journal.open_jobs()
    for job in jobs:
        package = await journal.load_package(job) if job.state is JobState.EXECUTED else None
        if job.attempt > 0 and package is None and is_delivered(job):
            if job.state is not JobState.EXECUTED:
                job = journal.move_lazily(job, JobState.EXECUTED)  # noqa: PLW2901
            journal.move_lazily(job, JobState.DELIVERED)
            _log.info("job-was-delivered", job=job.id, slot=job.slot.key)
            continue
        if package is None and job.state is not JobState.QUEUED:
            job = journal.move_lazily(job, JobState.QUEUED)  # noqa: PLW2901
        _log.info("job-resumed", job=job.id, slot=job.slot.key, attempt=job.attempt)
        dispatcher.resume(job, package)
    return len(jobs)


def is_delivered(job: Job) -> bool:
    """Whether the slot holds the marker of this very job, and the marker is true."""
    try:
        found = parse_marker(_read(job.slot, job.slot.stem + MARKER_SUFFIX))
        if found is None or found.job != job.id or f"{job.slot.stem}.json" not in found.files:
            return False
        return all(
            hashlib.sha256(_read(job.slot, name)).hexdigest() == file.sha256
            for name, file in found.files.items()
        )
    except (OSError, RefusedError, ChangedWhileReadError, ValueError):
        return False  # whatever lies there is not what this job wrote


def _read(slot: Slot, name: str) -> bytes:
    return read_regular(slot.directory, name, _MAX_BYTES, Code.INVALID_INPUT).data
