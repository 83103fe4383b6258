"""How a job ended: a status, a code, a message, values, captured output.

Owns the table of codes. Nothing here does any I/O.
"""

from enum import StrEnum
from typing import Any

import msgspec

__all__ = [
    "DETERMINISTIC_CLOCK_NS",
    "DETERMINISTIC_SEED",
    "Code",
    "Outcome",
    "OutputFile",
    "OutputTree",
    "Status",
]

#: Where the randomness of a deterministic job starts, and its clock: 2000-01-01T00:00:00Z.
DETERMINISTIC_SEED = 0
DETERMINISTIC_CLOCK_NS = 946_684_800_000_000_000


class Status(StrEnum):
    """What a consumer branches on first."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Code(StrEnum):
    """Why a job ended as it did. Each belongs to somebody: guest, producer or daemon."""

    OK = "ok"
    """The function returned, or the command exited with 0."""
    EXIT = "exit"
    """Guest: a command exited with another code than 0."""
    TRAP = "trap"
    """Guest: a wasm trap; the message names it, with a backtrace."""
    TIMEOUT = "timeout"
    """Guest: ran longer than its time limit."""
    MEMORY_LIMIT = "memory-limit"
    """Guest: wanted more memory than its limit."""
    FUEL_LIMIT = "fuel-limit"
    """Guest: used up its fuel."""
    OUTPUT_LIMIT = "output-limit"
    """Guest: wrote more output than its limit."""
    DISK_LIMIT = "disk-limit"
    """Guest: wrote more into its directory than its limit."""
    INVALID_INPUT = "invalid-input"
    """Producer: the input file can't be read as an input."""
    INVALID_ARGS = "invalid-args"
    """Producer: the arguments do not fit the entry's signature."""
    ENTRY_NOT_FOUND = "entry-not-found"
    """Producer: the module exports no function of that name."""
    UNSUPPORTED_SIGNATURE = "unsupported-signature"
    """Producer: the entry takes or returns types that JSON can't carry."""
    MODULE_MISSING = "module-missing"
    """Producer: the module did not appear in time."""
    INVALID_MODULE = "invalid-module"
    """Producer: the file is no WebAssembly module."""
    LINK_ERROR = "link-error"
    """Producer: the module imports something that nobody provides."""
    COMPILE_LIMIT = "compile-limit"
    """Producer: compiling took more time or memory than allowed."""
    SANDBOX_VIOLATION = "sandbox-violation"
    """Guest: did what the sandbox forbids and was killed."""
    CRASHED = "crashed"
    """Unknown: the job's process died of a signal that no limit explains."""
    INTERNAL = "internal"
    """The daemon's fault."""

    @property
    def status(self) -> Status:
        """The status that goes with this code."""
        return Status.SUCCEEDED if self is Code.OK else Status.FAILED

    @property
    def retried(self) -> bool:
        """Whether trying again may help, so that the daemon does so of its own."""
        return self in _RETRIED

    @property
    def of_the_module(self) -> bool:
        """Whether another module may end otherwise: the job is rerun when the module changes."""
        return self in _OF_THE_MODULE


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


class OutputFile(msgspec.Struct, frozen=True):
    """A regular file that a program left in its directory."""

    path: str
    """Relative, with slashes."""
    sha256: str
    size_bytes: int


class OutputTree(msgspec.Struct, frozen=True):
    """What a program left in its directory, to which nobody writes any more."""

    root: str
    """Where it lies."""
    files: tuple[OutputFile, ...] = ()
    directories: tuple[str, ...] = ()
    """Relative paths, each after that of the directory it is in."""
    left_out: str = ""
    """What lies there and is not published, in words."""


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a job ended. ``exit_code`` is set if a WASI program exited with one."""

    code: Code
    message: str = ""
    results: tuple[Any, ...] | None = None
    """The returned values, ready for JSON; None where there are none to speak of."""
    exit_code: int | None = None
    is_command: bool = False
    """Whether it was a WASI command, which has an exit code and both output files in any case."""
    stdout: bytes | None = None
    """Output of a WASI program, up to the output limit; None if the job was none or never ran."""
    stderr: bytes | None = None
    output: OutputTree | None = None
    """What a WASI program left in its directory; None where that is nothing."""
    peak_memory_bytes: int | None = None
    """Size of all the guest's memories at the end, its heap of structs and exceptions included;
    they never shrink, so this is the peak. None if that is not known."""
    fuel_used: int | None = None
    """Units of fuel that the run took; None where none were counted."""
    run_seconds: float = 0.0
    cpu_seconds: float | None = None
    """Processor time of the run; of a job that was killed, of its whole process. None if not known:
    also if the job never ran."""
    compile_seconds: float = 0.0

    @property
    def status(self) -> Status:
        """The status that goes with the code."""
        return self.code.status
