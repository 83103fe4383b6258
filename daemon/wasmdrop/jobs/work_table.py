"""The table of open jobs: per slot the active job and those that wait behind it.

A job on its way is a :class:`Work`, a frozen value. The table is the only one that replaces it: by
:meth:`WorkTable.evolve`, and by :meth:`WorkTable.move`, which moves the job in the journal, too.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from wasmdrop.jobs.entrypoint import Plan
from wasmdrop.jobs.job import DecidedEnd, Job, JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.input import InputSpec
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.slot import FileVersion

#: Inputs up to this size, in bytes, stay in memory while their job waits; others are read from the
#: journal.
_KEPT_INPUT_BYTES: Final = 4096


class Work(msgspec.Struct, frozen=True):
    """An active job and its data in memory."""

    job: Job
    accepted: "asyncio.Future[None] | None" = None
    """Done when the journal holds the job durably; None if it did before."""
    spec: InputSpec | None = None
    refusal: RefusedError | None = None
    is_resumed: bool = False
    """Whether an earlier daemon left it, perhaps because this job crashed it."""
    owes_result: bool = True
    """False for a module that was dropped alone and may turn out to need an input."""
    is_for_module: bool = False
    """Whether a dropped module caused it, not an input."""
    compile_seconds: float = 0.0
    limits: Limits | None = None
    is_deterministic: bool = False
    plan: Plan | None = None
    begun: "asyncio.Future[None] | None" = None
    """Done when the journal holds the attempt durably."""
    deadline: float | None = None
    """When its module must be there, by the loop's clock; None if it was there at first."""
    incomplete: tuple[FileVersion, float] | None = None
    """A version of its module that is invalid, and when that was first noticed."""
    decided: "asyncio.Future[None] | None" = None
    """Done when the journal holds the job's decided end durably; None if it did before."""

    @property
    def slot_key(self) -> str:
        """The key of the job's slot."""
        return self.job.slot.key

    @property
    def input_bytes(self) -> int:
        """The size of the job's copy of its input."""
        return 0 if self.job.input is None else self.job.input.copied_bytes

    @property
    def is_large(self) -> bool:
        """Whether the job's input is not kept in memory while the job waits."""
        return self.input_bytes > _KEPT_INPUT_BYTES


@dataclass(slots=True)
class SlotJobs:
    """The jobs of one slot. Most slots have one job, so there is no queue before the second."""

    active: Work | None = None
    next: Work | None = None
    later: deque[Work] | None = None
    has_ended_one: bool = False
    """Whether another job ended, and the slot was not empty since."""


class WorkTable:
    """All open jobs, by the key of their slot; used from one event loop."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._slots: dict[str, SlotJobs] = {}
        self._keys: dict[str, str] = {}
        """The key of the slot of each job, by the job's id."""

    def add(self, work: Work) -> bool:
        """Add a job behind all others of its slot; return whether it is the only one."""
        self._keys[work.job.id] = work.slot_key
        slot = self._slots.setdefault(work.slot_key, SlotJobs())
        if slot.next is None:
            slot.next = work
            return slot.active is None
        slot.later = slot.later or deque()
        slot.later.append(work)
        return False

    def unload(self, work: Work) -> None:
        """Forget the parsed input of the job that was added last, if it waits."""
        slot = self._slots[work.slot_key]
        unloaded = msgspec.structs.replace(work, spec=None)
        if slot.next is work:
            slot.next = unloaded
        elif slot.later and slot.later[-1] is work:
            slot.later[-1] = unloaded

    def add_first(self, work: Work) -> None:
        """Add a job before all others of its slot that wait."""
        self._keys[work.job.id] = work.slot_key
        slot = self._slots.setdefault(work.slot_key, SlotJobs())
        if slot.next is not None:
            slot.later = slot.later or deque()
            slot.later.appendleft(slot.next)
        slot.next = work

    def __len__(self) -> int:
        return len(self._keys)

    def slots(self) -> list[SlotJobs]:
        """Return all slots, about in the order of their first jobs; they change later."""
        return list(self._slots.values())

    def has(self, job_id: str) -> bool:
        """Whether a job is open, by its id."""
        return job_id in self._keys

    def find(self, job_id: str) -> Work | None:
        """Return an open job by its id; None if there is none."""
        key = self._keys.get(job_id)
        if key is None:
            return None
        return next(work for work in _works(self._slots[key]) if work.job.id == job_id)

    def has_slot(self, key: str) -> bool:
        """Whether the slot has open jobs."""
        return key in self._slots

    def waits(self, key: str) -> bool:
        """Whether the slot has jobs and none of them is active."""
        slot = self._slots.get(key)
        return slot is not None and slot.active is None

    def first(self, key: str) -> Work:
        """Return the active job of a slot; if none is, the one that will be next."""
        slot = self._slots[key]
        work = slot.active or slot.next
        assert work is not None  # noqa: S101 - a slot without jobs leaves the table
        return work

    def last_job(self, key: str) -> Job | None:
        """Return the open job of a slot that was added last."""
        slot = self._slots.get(key)
        if slot is None:
            return None
        work = (slot.later[-1] if slot.later else slot.next) or slot.active
        return None if work is None else work.job

    def begin(self, key: str) -> Work:
        """Return the active job of a slot; if none is, the next one becomes active."""
        slot = self._slots[key]
        if slot.active is None:
            slot.active = slot.next
            slot.next = slot.later.popleft() if slot.later else None
        return self.first(key)

    def finish(self, key: str) -> bool:
        """Remove the active job of a slot; return whether others wait behind it."""
        slot = self._slots[key]
        self._keys.pop(_active(slot).job.id, None)
        slot.active = None
        if slot.next is None:
            del self._slots[key]
            return False
        slot.has_ended_one = True
        return True

    def follows_another(self, key: str) -> bool:
        """Whether another job of the slot ended while the active one waited."""
        return self._slots[key].has_ended_one

    def current(self, work: Work) -> Work:
        """Return an active job as it is now."""
        return _active(self._slots[work.job.slot.key])

    def evolve(self, work: Work, **changes: Any) -> Work:
        """Change an active job, as it is now; return the new value."""
        slot = self._slots[work.job.slot.key]
        slot.active = evolved = msgspec.structs.replace(_active(slot), **changes)
        return evolved

    def move(self, work: Work, state: JobState, **changes: Any) -> Work:
        """Move an active job; nothing is lost if the daemon ends before the move is written."""
        job = self._journal.move_lazily(self.current(work).job, state, **changes)
        return self.evolve(work, job=job)

    def close(self, work: Work, marker: bytes) -> Work:
        """Close an active job whose results are in place; see :meth:`Journal.close_lazily`."""
        return self.evolve(work, job=self._journal.close_lazily(self.current(work).job, marker))

    def move_durably(
        self, work: Work, state: JobState, **changes: Any
    ) -> "tuple[Work, asyncio.Future[None]]":
        """Move an active job; return the new value and when the move is durable."""
        job, durable = self._journal.move(self.current(work).job, state, **changes)
        return self.evolve(work, job=job), durable

    def end(self, key: str, end: DecidedEnd, is_wanted: Callable[[Job], bool]) -> list[Work]:
        """Decide how the wanted jobs of a slot end; return their new values in order.

        Leaves out jobs that have an outcome or whose end was decided before.
        """
        ended: list[Work] = []

        def decide(work: Work) -> Work:
            job = work.job
            if job.state is JobState.EXECUTED or job.end is not None or not is_wanted(job):
                return work
            job, decided = self._journal.end(job, end)
            ended.append(msgspec.structs.replace(work, job=job, decided=decided))
            return ended[-1]

        slot = self._slots.get(key)
        if slot is not None:
            slot.active = slot.active and decide(slot.active)
            slot.next = slot.next and decide(slot.next)
            slot.later = slot.later and deque(map(decide, slot.later))
        return ended

    def begin_attempt(self, work: Work, started_at_ns: int, *, is_remote: bool) -> Work:
        """Move an active job to RUNNING and count the attempt, in the journal without delay."""
        job = self.current(work).job
        job, begun = self._journal.begin(
            job, attempt=job.attempt + 1, started_at_ns=started_at_ns, is_remote=is_remote
        )
        return self.evolve(work, job=job, begun=begun)


def _works(slot: SlotJobs) -> list[Work]:
    works = (slot.active, slot.next, *(slot.later or ()))
    return [work for work in works if work is not None]


def _active(slot: SlotJobs) -> Work:
    assert slot.active is not None  # noqa: S101 - its job is active
    return slot.active
