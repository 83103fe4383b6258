"""The job: one execution of one module on one input, caused by one drop.

Owns the states of a job and the table of moves between them. Jobs are frozen; a moved job is a new
value. Only the journal moves jobs, so that what is in memory and what is on disk agree.
"""

import os
from enum import StrEnum
from typing import Final, Self

import msgspec

from wasmdrop.outcome import Code

__all__ = ["MOVES", "FileVersion", "InputFile", "Job", "JobState", "PinnedModule", "Slot"]


class JobState(StrEnum):
    """Where a job is on its way."""

    QUEUED = "queued"
    """Accepted; waits for its turn in its slot, then for a worker."""
    WAITING = "waiting"
    """First in its slot; its module is not there yet, or not complete."""
    COMPILING = "compiling"
    """First in its slot; its module is being compiled."""
    RUNNING = "running"
    """Given to the executor; the attempt is counted."""
    EXECUTED = "executed"
    """Has an outcome; its result files are not all in place yet."""
    DELIVERED = "delivered"
    """Final: result files and marker are in place."""
    DISCARDED = "discarded"
    """Final: no result is owed to anyone."""

    @property
    def is_final(self) -> bool:
        """Whether the journal is done with the job."""
        return not MOVES[self]


#: The legal moves. RUNNING and EXECUTED go back to QUEUED when an attempt is repeated, be it
#: because the outcome says so or because the daemon ended before the job did.
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


class FileVersion(msgspec.Struct, frozen=True, array_like=True):
    """What tells one version of a file from the next (stat(2)); times in nanoseconds."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the version that ``status`` describes."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class FoundIn(msgspec.Struct, frozen=True, array_like=True):
    """What tells the directory of an input from one that another user puts in its place."""

    device: int
    inode: int
    owner: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return what ``status`` tells of a directory."""
        return cls(status.st_dev, status.st_ino, status.st_uid)

    def may_be(self, other: "FoundIn") -> bool:
        """Whether it is that directory, be its owner changed meanwhile, or one of its owner."""
        return self.owner == other.owner or (self.device, self.inode) == (other.device, other.inode)


class Slot(msgspec.Struct, frozen=True):
    """One input path with its result files beside it."""

    key: str
    """Its name in the journal and in logs: the input's path below the shared directory."""
    input_path: str
    directory: str
    """Where the result files go."""
    stem: str
    """What their names begin with: ``result`` or ``result-NAME``."""
    is_root: bool = False
    """Whether this is the slot of ``INPUT_PATH``, which a drop of the default module runs."""
    found_in: FoundIn | None = None
    """The directory that the input was found in: nobody else's gets its results."""

    @property
    def place(self) -> tuple[str, str]:
        """Where the result files go: a directory that others can't replace, and the path below."""
        root = self.input_path.removesuffix(f"/{self.key}")
        if root != self.input_path and self.directory.startswith(f"{root}/"):
            return root, self.directory[len(root) + 1 :]
        return self.directory, ""  # the shared directory itself, or that of OUTPUT_PATH


class InputFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """The input of a job, as it was when it was read or refused."""

    path: str
    sha256: str | None
    """None if the daemon could not read it."""
    size_bytes: int | None
    """None if it is no regular file."""
    version: FileVersion | None = None
    """What tells it from others if it has no digest."""
    refusal: str | None = None
    """Why it was not read: the job has no copy of it."""

    @property
    def copied_bytes(self) -> int:
        """Size of the job's copy."""
        return 0 if self.refusal is not None else self.size_bytes or 0


class PinnedModule(msgspec.Struct, frozen=True):
    """The module of a job, as it was when it was read."""

    path: str
    sha256: str
    size_bytes: int
    version: FileVersion | None = None
    """None where the input asked for a module by its digest."""


class Job(msgspec.Struct, frozen=True):
    """One job. Times are nanoseconds since 1970-01-01 UTC."""

    id: str
    slot: Slot
    dropped_at_ns: int
    state: JobState = JobState.QUEUED
    attempt: int = 0
    """Runs begun so far."""
    input: InputFile | None = None
    producer_id: str | None = None
    """The producer's own name for the job."""
    module_reference: str | None = None
    """What the input says about its module."""
    module: PinnedModule | None = None
    started_at_ns: int | None = None
    finished_at_ns: int | None = None
    code: Code | None = None
    message: str = ""
