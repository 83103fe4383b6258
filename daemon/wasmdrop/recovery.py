"""Recovery: at start, takes up what an earlier daemon left open.

A job that was running is run again, its attempt counted; a job whose marker is already in place is
closed; results that could not be delivered are delivered.
"""

import hashlib
import json
from typing import Any

import structlog

from wasmdrop.delivery import MARKER_SUFFIX
from wasmdrop.dispatch import Dispatcher
from wasmdrop.errors import RefusedError
from wasmdrop.intake.reader import ChangedWhileReadError, read_regular
from wasmdrop.job import Job, JobState
from wasmdrop.journal import Journal
from wasmdrop.outcome import Code

__all__ = ["recover"]

_log = structlog.get_logger()

#: Largest marker or result file that is read back.
_MAX_BYTES = 1 << 30


async def recover(journal: Journal, dispatcher: Dispatcher) -> int:
    """Hand every open job to the dispatcher or close it; return how many were open."""
    jobs = journal.open_jobs()
    for job in jobs:
        package = await journal.load_package(job) if job.state is JobState.EXECUTED else None
        if package is not None and package.output is not None:
            package = None  # the directory that it names went with the daemon that wrote it
        if job.attempt > 0 and package is None and _is_delivered(job):
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


def _is_delivered(job: Job) -> bool:
    """Whether the slot holds the marker of this very job, and the marker is true."""
    try:
        found = json.loads(_read(job, job.slot.stem + MARKER_SUFFIX))
        if not isinstance(found, dict) or found.get("job") != job.id:
            return False
        return all(_matches(job, name, entry) for name, entry in found["files"].items())
    except (OSError, RefusedError, ChangedWhileReadError, ValueError, LookupError, TypeError):
        return False  # whatever lies there is not what this job wrote


def _matches(job: Job, name: str, entry: dict[str, Any]) -> bool:
    return bool(hashlib.sha256(_read(job, name)).hexdigest() == entry["sha256"])


def _read(job: Job, name: str) -> bytes:
    return read_regular(job.slot.directory, name, _MAX_BYTES, Code.INVALID_INPUT).data
