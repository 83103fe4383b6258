"""Recovery: resume at start the jobs that an earlier daemon left open.

A job that was running here is rerun, with its attempt counted; one that was running on another
machine is resumed there, with the same attempt. A job whose marker is in place is closed.
Undelivered results are resumed without reading them.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final

import structlog

from wasmdrop.jobs.dispatcher import Dispatcher
from wasmdrop.jobs.job import DecidedEnd, Job, JobState
from wasmdrop.jobs.journal.statements import OpenJob
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.placed_marker import placed_marker
from wasmdrop.protocol.marker import parse_marker
from wasmdrop.system.mount_threads import MountThreads

_log = structlog.get_logger()

#: How long a mount may take to answer before the start goes on, in seconds.
_MOUNT_TIMEOUT_SECONDS: Final = 5.0

#: How often a daemon may die while an attempt runs on another machine without that it counts: the
#: answer may be what kills it.
_MOST_RESUMPTIONS: Final = 20


async def recover(
    journal: Journal,
    dispatcher: Dispatcher,
    sweep: Callable[[Collection[str]], None],
    ends: Mapping[str, DecidedEnd],
    is_stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Hand every open job to the dispatcher or close it; return how many were open.

    ``sweep(kept)`` removes the directories of all jobs except the ``kept`` ones. ``ends``: how
    jobs end that have no outcome yet, by their ids. That is durable when this returns. If the
    daemon ``is_stopping``, the rest is left to the next one.
    """
    mount_threads = MountThreads()
    count = seq = kept_bytes = 0
    kept: set[str] = set()
    outputs: set[str] = set()
    while page := await journal.open_jobs(seq):
        for one in page:
            if one.job.state is JobState.EXECUTED and one.kept_bytes is not None:
                kept.add(one.job.id)
                kept_bytes += one.kept_bytes
                outputs.add(await _output_of(journal, one))
                dispatcher.resume_undelivered(one.job, one.kept_bytes)
            else:
                await _resume(journal, dispatcher, one, mount_threads, ends.get(one.job.id))
            if is_stopping():
                mount_threads.close()
                return count
            count += 1
        seq = page[-1].seq
    if kept:
        _log.info("results-resumed", results=len(kept), bytes=kept_bytes)
    mount_threads.close()
    await asyncio.to_thread(sweep, outputs)
    await asyncio.to_thread(journal.sweep_results, kept)
    return count


async def _placed_marker(
    mount_threads: MountThreads, job: Job, *, is_for_event: bool
) -> bytes | None:
    """Return the marker if the results are in place; None if the mount hangs."""
    find = partial(placed_marker, job, is_for_event=is_for_event)
    try:
        return await mount_threads.run(
            job.slot.directory, find, wait_seconds=_MOUNT_TIMEOUT_SECONDS
        )
    except OSError:
        return None


async def _resume(
    journal: Journal,
    dispatcher: Dispatcher,
    one: OpenJob,
    mount_threads: MountThreads,
    end: DecidedEnd | None,
) -> None:
    job = one.job
    has_begun = job.attempt > 0 or job.state is JobState.EXECUTED
    marker = None
    if has_begun or job.end is not None:
        is_for_event = journal.events is not None
        marker = await _placed_marker(mount_threads, job, is_for_event=is_for_event)
    if marker is not None:
        if job.state is not JobState.EXECUTED:
            known = _end_of(job, marker)
            job = journal.move_lazily(job, JobState.EXECUTED, **known)
        journal.close_lazily(job, marker)
        _log.info("job-already-delivered", job=job.id, slot=job.slot.key)
        return
    is_away = job.is_remote and job.state in {JobState.RUNNING, JobState.EXECUTED}
    if is_away and job.attempt > 0 and job.resumptions < _MOST_RESUMPTIONS:
        # The attempt did not end with the daemon: the next one is the same attempt. Its answer
        # waits in the fleet until the results are in place.
        job = journal.move_lazily(
            job, JobState.QUEUED, attempt=job.attempt - 1, resumptions=job.resumptions + 1
        )
    elif job.state is not JobState.QUEUED:
        job = journal.move_lazily(job, JobState.QUEUED)
    if end is not None and job.end is None:
        job, _durable = journal.end(job, end)
        _log.info("job-cancelled", job=job.id, slot=job.slot.key, reason=end.message)
    _log.info("job-resumed", job=job.id, slot=job.slot.key, attempt=job.attempt)
    dispatcher.resume_queued(job)


def _end_of(job: Job, marker: bytes) -> dict[str, Any]:
    """Return what is known about the end of a job whose results are in place."""
    if job.end is not None:
        return {"code": job.end.code, "message": job.end.message}
    found = parse_marker(marker)
    # The message of a marker, which may be forged, is not the daemon's own.
    return {} if found is None else {"code": found.code}


async def _output_of(journal: Journal, one: OpenJob) -> str:
    """Return the directory of the output files of kept results; empty if there are none."""
    if one.kept_output is not None:
        return one.kept_output
    # Journals before version 3 did not record it.
    package = await journal.load_package(one.job)
    return package.output.root if package is not None and package.output is not None else ""
