"""The job: one execution of one module on one input, caused by one drop.

Jobs are frozen: a moved job is a new value. Only the journal moves jobs, so that memory and disk
agree.
"""

import functools
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from wasmdrop.protocol.errors import WasmdropError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import InputFile, PinnedModule, Slot

_NOISE_BYTES: Final = 5


class IllegalMoveError(WasmdropError):
    """A move that the table does not have: a fault in the program."""


class JobState(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    """Accepted; waits for earlier jobs of its slot, then for a worker."""
    WAITING = "waiting"
    """First in its slot; its module is missing, or not complete."""
    COMPILING = "compiling"
    """First in its slot; its module is being compiled."""
    RUNNING = "running"
    """Given to the executor; the attempt is counted."""
    EXECUTED = "executed"
    """Has an outcome; its result files are not all in place yet."""
    DELIVERED = "delivered"
    """Final: result files and marker are in place."""
    DISCARDED = "discarded"
    """Final: no result is delivered."""

    @property
    def is_final(self) -> bool:
        """Whether no move leads out of this state."""
        return not MOVES[self]

    @property
    def has_outcome(self) -> bool:
        """Whether the outcome of the job is decided, so that a cancellation comes too late."""
        return self is JobState.EXECUTED or self.is_final


#: The legal moves. RUNNING and EXECUTED go back to QUEUED when an attempt is repeated, because of
#: its outcome or because the daemon ended first.
MOVES: Final[dict[JobState, frozenset[JobState]]] = {
    JobState.QUEUED: frozenset(
        {
            JobState.WAITING,
            JobState.COMPILING,
            JobState.RUNNING,
            JobState.EXECUTED,
            JobState.DISCARDED,
        }
    ),
    JobState.WAITING: frozenset(
        {
            JobState.QUEUED,
            JobState.COMPILING,
            JobState.RUNNING,
            JobState.EXECUTED,
            JobState.DISCARDED,
        }
    ),
    JobState.COMPILING: frozenset(
        {
            JobState.QUEUED,
            JobState.WAITING,
            JobState.RUNNING,
            JobState.EXECUTED,
            JobState.DISCARDED,
        }
    ),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.EXECUTED}),
    JobState.EXECUTED: frozenset({JobState.QUEUED, JobState.DELIVERED, JobState.DISCARDED}),
    JobState.DELIVERED: frozenset(),
    JobState.DISCARDED: frozenset(),
}


class DecidedEnd(msgspec.Struct, frozen=True):
    """An end that was decided before the job came to its own: cancelled, or refused by a limit."""

    code: Code
    message: str


class Job(msgspec.Struct, frozen=True):
    """One job. Times are nanoseconds since 1970-01-01 UTC."""

    id: str
    slot: Slot
    dropped_at_ns: int
    state: JobState = JobState.QUEUED
    attempt: int = 0
    """Attempts begun so far."""
    input: InputFile | None = None
    producer_id: str | None = None
    """The producer's id for the job."""
    module_reference: str | None = None
    """The input's reference to its module."""
    module: PinnedModule | None = None
    is_remote: bool = False
    """Whether the last attempt runs on another machine, and so outlives the daemon."""
    resumptions: int = 0
    """How often such an attempt was resumed without being counted again."""
    started_at_ns: int | None = None
    finished_at_ns: int | None = None
    code: Code | None = None
    message: str = ""
    end: DecidedEnd | None = None
    """If it is set, the job runs no more and ends like this."""
    worker: str | None = None
    """The worker of the fleet that ran it; None without one, and before it ended."""

    def moved(self, state: JobState, **changes: Any) -> "Job":
        """Return the job in another state. Raises ``IllegalMoveError``."""
        if state not in MOVES[self.state]:
            raise IllegalMoveError(f"job {self.id}: {self.state} to {state} is no legal move")
        return msgspec.structs.replace(self, state=state, **changes)


#: Every id of a job, and no other name of a file.
_ID: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{10}")


def is_refused(job: Job) -> bool:
    """Whether a limit refused the job, so that it can't be cancelled, even if it is still open."""
    return job.end is not None and job.end.code is not Code.CANCELLED


def is_job_id(text: str) -> bool:
    """Whether ``text`` has the form of a job's id."""
    return _ID.fullmatch(text) is not None


def new_job_id(dropped_at_ns: int) -> str:
    """Return a unique id that sorts by the time of the drop, in nanoseconds since 1970-01-01 UTC.

    Call it from one thread only.
    """
    return f"{_second(dropped_at_ns // 1_000_000_000)}-{next(_noise)}"


@functools.lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%SZ}"


def _make_noise() -> Iterator[str]:
    """Yield ten random hexadecimal digits at a time; one system call serves many."""
    while True:
        data = os.urandom(_NOISE_BYTES * 256)
        for start in range(0, len(data), _NOISE_BYTES):
            yield data[start : start + _NOISE_BYTES].hex()


_noise: Final = _make_noise()
