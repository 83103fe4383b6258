"""Recovery: at start, takes up what an earlier daemon left open.

A job that was running is run again, its attempt counted; a job whose marker is already in place is
closed; results that could not be delivered are delivered.
"""

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path

import structlog

from wasmdrop.dispatch import Dispatcher
from wasmdrop.durable import sync_directory
from wasmdrop.intake.markers import true_marker
from wasmdrop.job import Job, JobState
from wasmdrop.journal import Journal
from wasmdrop.outcome import OutputTree
from wasmdrop.tree import TreeLimitError, inventory

__all__ = ["is_delivered", "recover"]

_log = structlog.get_logger()


async def recover(
    journal: Journal, dispatcher: Dispatcher, sweep: Callable[[Collection[str]], None]
) -> int:
    """Hand every open job to the dispatcher or close it; return how many were open.

    ``sweep`` removes the directories of all jobs but of those that it is given.
    """
    jobs = journal.open_jobs()
    kept: list[str] = []
    for job in jobs:
        package = await journal.load_package(job) if job.state is JobState.EXECUTED else None
        if package is not None and package.output is not None:
            if await asyncio.to_thread(_is_whole, package.output):
                kept.append(package.output.root)
            else:
                package = None
        may_be_delivered = job.attempt > 0 or job.state is JobState.EXECUTED
        if may_be_delivered and package is None and is_delivered(job):
            if job.state is not JobState.EXECUTED:
                job = journal.move_lazily(job, JobState.EXECUTED)  # noqa: PLW2901
            journal.move_lazily(job, JobState.DELIVERED)
            _log.info("job-was-delivered", job=job.id, slot=job.slot.key)
            continue
        if package is None and job.state is not JobState.QUEUED:
            job = journal.move_lazily(job, JobState.QUEUED)  # noqa: PLW2901
        _log.info("job-resumed", job=job.id, slot=job.slot.key, attempt=job.attempt)
        dispatcher.resume(job, package)
    await asyncio.to_thread(sweep, kept)
    return len(jobs)


def _is_whole(output: OutputTree) -> bool:
    """Whether all that a program left is there as it was: a power cut may have taken some of it."""
    try:
        found = inventory(output.root, sum(file.size_bytes for file in output.files))
    except (OSError, TreeLimitError):
        return False
    same_files = set(found.files) == set(output.files)
    return same_files and set(found.directories) == set(output.directories)


def is_delivered(job: Job) -> bool:
    """Whether the slot holds the marker of this very job, durably, and the marker is true."""
    marker = true_marker(job.slot)
    if marker is None or marker.job != job.id:
        return False
    try:
        # Whoever put it there may have died before that; then the journal is the last to know.
        root, relative = job.slot.place
        sync_directory(Path(root), relative)
    except OSError:
        return False
    return True
