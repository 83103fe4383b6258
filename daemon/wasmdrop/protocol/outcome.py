"""Outcomes of jobs: status, code, message, values and captured output.

The table of codes is here. This module does no I/O.
"""

from enum import StrEnum
from typing import Any

import msgspec

from wasmdrop.protocol.runtime_versions import RuntimeVersions

#: The rules of a deterministic job: its clock, its seed, its file metadata, and its result files.
#: Raised when one of them changes; two results can be compared if the number is the same.
DETERMINISTIC_PROFILE = 1

#: Seed of the randomness of a deterministic job, and start of its clock.
DETERMINISTIC_SEED = 0
DETERMINISTIC_CLOCK = "2000-01-01T00:00:00Z"
DETERMINISTIC_CLOCK_NS = 946_684_800_000_000_000


class Status(StrEnum):
    """Success or failure, for consumers that need no more."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Code(StrEnum):
    """Why a job ended. Each failure is the fault of the guest, the producer or the daemon."""

    OK = "ok"
    """The function returned, or the command exited with 0."""
    EXIT = "exit"
    """Guest: a command exited with another code than 0."""
    TRAP = "trap"
    """Guest: a wasm trap; the message names it, with a backtrace."""
    TIMEOUT = "timeout"
    """Guest: ran longer than its time limit."""
    MEMORY_LIMIT = "memory-limit"
    """Guest: needed more memory than its limit."""
    FUEL_LIMIT = "fuel-limit"
    """Guest: used up its fuel."""
    OUTPUT_LIMIT = "output-limit"
    """Guest: wrote more output than its limit."""
    DISK_LIMIT = "disk-limit"
    """Guest: wrote more into its directory than its limit."""
    INVALID_INPUT = "invalid-input"
    """Producer: the input file is not a valid input."""
    INVALID_ARGS = "invalid-args"
    """Producer: the arguments do not fit the entry's signature."""
    ENTRY_NOT_FOUND = "entry-not-found"
    """Producer: the module exports no function of that name."""
    UNSUPPORTED_SIGNATURE = "unsupported-signature"
    """Producer: the entry takes or returns types that JSON can't represent."""
    QUEUE_LIMIT = "queue-limit"
    """Producer: too many jobs of its top directory waited already."""
    MODULE_MISSING = "module-missing"
    """Producer: the module was not dropped in time."""
    INVALID_MODULE = "invalid-module"
    """Producer: the file is not a WebAssembly module."""
    LINK_ERROR = "link-error"
    """Producer: the module imports something that the daemon does not provide."""
    COMPILE_LIMIT = "compile-limit"
    """Producer: compiling took more time or memory than allowed."""
    CANCELLED = "cancelled"
    """Neither: a person or program cancelled it."""
    SANDBOX_VIOLATION = "sandbox-violation"
    """Guest: made a forbidden system call and was killed."""
    CRASHED = "crashed"
    """Unknown: a signal killed the job's process, and no limit explains it."""
    INTERNAL = "internal"
    """The daemon's fault."""

    @property
    def status(self) -> Status:
        """The status that goes with this code."""
        return Status.SUCCEEDED if self is Code.OK else Status.FAILED

    @property
    def retried(self) -> bool:
        """Whether the daemon runs the job again, because another attempt may succeed."""
        return self in _RETRIED

    @property
    def of_the_module(self) -> bool:
        """Whether the module may be the cause: the job is rerun when the module changes."""
        return self in _OF_THE_MODULE

    @property
    def is_reproducible(self) -> bool:
        """Whether every run of a deterministic job that ends like this does so, on any machine."""
        return self in REPRODUCIBLE_CODES


_RETRIED = frozenset({Code.CRASHED, Code.INTERNAL})
_OF_THE_MODULE = frozenset(
    {
        Code.MODULE_MISSING,
        Code.INVALID_MODULE,
        Code.LINK_ERROR,
        Code.COMPILE_LIMIT,
        Code.ENTRY_NOT_FOUND,
        Code.INVALID_ARGS,
        Code.UNSUPPORTED_SIGNATURE,
    }
)

#: Codes that follow from module, input and limits alone. The others depend on the machine:
#: ``timeout``, ``crashed`` and ``internal`` on its speed and faults; ``disk-limit``, because the
#: directory is checked at intervals while the guest writes; ``memory-limit``, which also means that
#: the host had no memory left; ``compile-limit`` on the time that compiling takes;
#: ``module-missing``, ``queue-limit`` and ``cancelled`` on the time; ``sandbox-violation`` on
#: kernel and libraries.
REPRODUCIBLE_CODES = frozenset(
    {
        Code.OK,
        Code.EXIT,
        Code.TRAP,
        Code.FUEL_LIMIT,
        Code.OUTPUT_LIMIT,
        Code.INVALID_INPUT,
        Code.INVALID_ARGS,
        Code.ENTRY_NOT_FOUND,
        Code.UNSUPPORTED_SIGNATURE,
        Code.INVALID_MODULE,
        Code.LINK_ERROR,
    }
)


class OutputFile(msgspec.Struct, frozen=True):
    """One output file of a job."""

    path: str
    """Relative, with slashes."""
    sha256: str
    size_bytes: int
    cid: str | None = None
    """The content id; None if it follows from the digest, as that of a file of one block does."""


class OutputTree(msgspec.Struct, frozen=True):
    """The output files of a job that has ended."""

    root: str
    """The directory that holds them."""
    files: tuple[OutputFile, ...] = ()
    directories: tuple[str, ...] = ()
    """Relative paths, each after that of its parent."""
    left_out: str = ""
    """The entries that are not published, for a message."""
    cid: str | None = None
    """The content id of the directory with all published entries. None if it has none: a directory
    with many entries can't be represented if their names have the same hash."""


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a job ended."""

    code: Code
    message: str = ""
    results: tuple[Any, ...] | None = None
    """The returned values, ready for JSON; None if the job has none."""
    exit_code: int | None = None
    """Set if a WASI program exited."""
    is_command: bool = False
    """Whether it was a WASI command, which always has an exit code and both output files."""
    stdout: bytes | None = None
    """Output of a WASI program, up to the output limit; None for other jobs, or if it never ran."""
    stderr: bytes | None = None
    output: OutputTree | None = None
    """The output files of a WASI program; None if there are none."""
    peak_memory_bytes: int | None = None
    """Size of the guest's memories at the end, its heap of structs and exceptions included. They
    never shrink, so this is the peak. None if it is unknown."""
    fuel_used: int | None = None
    """Units of fuel that the run used; None if fuel was not counted."""
    run_seconds: float = 0.0
    cpu_seconds: float | None = None
    """Processor time of the run; that of the whole process if the job was killed. None if it is
    unknown or the job never ran."""
    compile_seconds: float = 0.0
    attempts: int = 1
    """Attempts that it took: each worker of a fleet that died running the job counts as one."""
    worker: str | None = None
    """The worker of the fleet that ran the job; None if this machine did."""
    runtime: RuntimeVersions | None = None
    """The versions that ran the job; None for those of this process."""

    @property
    def status(self) -> Status:
        """The status that goes with the code."""
        return self.code.status
