"""The open jobs for the page: running jobs, the first waiting ones, and the number in each state.

The table may have 100,000 slots. They are looked at in parts, between which the event loop goes on,
so that no job waits for more than about a millisecond.
"""

import asyncio
import heapq
import itertools
from collections import Counter
from typing import Final

import msgspec

from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.work_table import WorkTable
from wasmdrop.page.activity import shown_module
from wasmdrop.page.model import MAX_JOBS, NAME_LIMIT, OpenJob
from wasmdrop.protocol.marker import timestamp
from wasmdrop.protocol.text import one_line

#: Slots that are looked at in one part.
_SLOTS_AT_ONCE: Final = 4000

_RUNNING: Final = frozenset({JobState.RUNNING, JobState.EXECUTED})


class OpenJobs(msgspec.Struct, frozen=True):
    """The open jobs; approximate, because they change meanwhile."""

    by_state: dict[str, int]
    running: tuple[OpenJob, ...]
    queued: tuple[OpenJob, ...]


async def look_at(table: WorkTable, now_ns: int) -> OpenJobs:
    """Look at all jobs of ``table``. Runs on its event loop."""
    states: Counter[JobState] = Counter()
    running: list[Job] = []
    queued: list[Job] = []
    slots = table.slots()
    for start in range(0, len(slots), _SLOTS_AT_ONCE):
        for slot in slots[start : start + _SLOTS_AT_ONCE]:
            work = slot.active
            if work is not None:
                states[work.job.state] += 1
                if work.job.state in _RUNNING:
                    running.append(work.job)
                elif len(queued) < MAX_JOBS:
                    queued.append(work.job)
            if len(queued) < MAX_JOBS and slot.next is not None:
                behind = itertools.islice(slot.later or (), MAX_JOBS - len(queued) - 1)
                queued += [waiting.job for waiting in (slot.next, *behind)]
        await asyncio.sleep(0)
    states[JobState.QUEUED] += max(0, len(table) - states.total())
    longest = heapq.nsmallest(MAX_JOBS, running, key=lambda job: job.started_at_ns or 0)
    queued.sort(key=lambda job: job.dropped_at_ns)
    return OpenJobs(
        {str(state): count for state, count in states.items() if count},
        tuple(_shown(job, now_ns) for job in longest),
        tuple(_shown(job, now_ns) for job in queued),
    )


def _shown(job: Job, now_ns: int) -> OpenJob:
    started_ns = job.started_at_ns if job.state is JobState.RUNNING else None
    return OpenJob(
        job=job.id,
        slot=one_line(job.slot.key, NAME_LIMIT),
        state=job.state,
        dropped_at=timestamp(job.dropped_at_ns),
        open_seconds=max(0, now_ns - job.dropped_at_ns) / 1e9,
        running_seconds=None if started_ns is None else max(0, now_ns - started_ns) / 1e9,
        attempt=job.attempt,
        module=shown_module(job.module),
        id=None if job.producer_id is None else one_line(job.producer_id, NAME_LIMIT),
        is_remote=job.is_remote,
        is_cancelled=job.end is not None,
        why="",
    )
