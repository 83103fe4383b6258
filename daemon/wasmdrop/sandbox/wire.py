"""What the daemon and a sandbox child say to each other, and how it is framed.

One order goes to a child, one report comes back, over a stream socket that only the two hold.
A frame is two little-endian 32-bit lengths, a JSON header of the first length and raw bytes of the
second. File descriptors ride along with the first byte of an order.

The child may have been taken over by its guest: the daemon reads no more than the bounds below,
decodes into these types and nothing else, and checks every number against what it asked for.
"""

import struct
from typing import Any, Final

import msgspec

from wasmdrop.protocol.module_types import ComponentCall, FunctionType, ModuleSummary
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.memory_shares import MemoryShares

__all__ = [
    "BINARY_REPORT",
    "BINARY_VALUE_BYTES",
    "FORK",
    "FORK_AT_ONCE",
    "FRAME",
    "MAX_REPORT_BYTES",
    "MAX_RUN_REPORT_BYTES",
    "NO_CHILD",
    "PING",
    "PROGRAM_NAME",
    "SWEEP",
    "BoundFunction",
    "CompileReport",
    "CompileRequest",
    "EngineOptions",
    "Invocation",
    "Preparation",
    "Request",
    "ReusableWorkerRequest",
    "RunReport",
    "RunRequest",
    "WasiContext",
    "ZygoteRequest",
    "binary_report_bytes",
    "decode_invocation",
    "decode_request",
    "encode_binary_call",
    "encode_frame",
]

#: What the daemon asks of a process that forks: a child for later, one that a job waits for
#: already; of the forking server alone a sign of life, and to end what a template left behind.
FORK: Final = b"fork"
FORK_AT_ONCE: Final = b"fork at once"
PING: Final = b"ping"
SWEEP: Final = b"sweep"

#: What a template answers that can fork no child now.
NO_CHILD: Final = b"none"

FRAME: Final = struct.Struct("<II")

#: What a WASI program sees as its own name.
PROGRAM_NAME: Final = "module.wasm"

#: Of a plain function a frame's raw part is its arguments, so many bytes each, bits first; and no
#: header. So is that of its report, after the seconds that it ran, those of the processor, the
#: bytes of its exported memory and its fuel used; each of the last two -1 where there is none.
BINARY_VALUE_BYTES: Final = 16
BINARY_REPORT: Final = struct.Struct("<ddqq")

#: A module's summary is bounded to 2 MiB of names and 1 MiB of types (see :mod:`.binary`); JSON may
#: escape each character sixfold.
MAX_REPORT_BYTES: Final = 16 * 1024 * 1024

#: A run's report holds a message of a few kilobytes and at most a thousand results (the limit of
#: WebAssembly's JavaScript interface, which wasmtime keeps, too).
MAX_RUN_REPORT_BYTES: Final = 128 * 1024


class EngineOptions(msgspec.Struct, frozen=True):
    """Whatever shapes the machine code: part of the name of a compiled module."""

    fuel: bool = False
    """Count fuel; costs about a quarter of the speed, so only where it was asked for."""

    deterministic: bool = False
    """Canonical NaNs, deterministic relaxed SIMD, a fixed clock, seeded randomness, and fuel."""

    @property
    def token(self) -> str:
        """A short name for file names and logs."""
        if self.deterministic:
            return "deterministic"
        return "fuel" if self.fuel else "plain"

    @property
    def counts_fuel(self) -> bool:
        """Whether fuel is counted, with a limit or without."""
        return self.fuel or self.deterministic


class CompileRequest(msgspec.Struct, frozen=True, tag="compile"):
    """Compile the module in descriptor 0 and write the machine code to descriptor 1."""

    options: EngineOptions
    module_bytes: int
    code_bytes: int
    """Most that the machine code may take."""
    cpu_seconds: int
    memory_bytes: int


class WasiContext(msgspec.Struct, frozen=True):
    """The world of a WASI program.

    Its standard input is the beginning of the frame's raw part, the contents of ``files`` the rest.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    stdin_bytes: int
    disk_bytes: int | None = None
    """Size of the largest file it may write in its directory, the one in descriptor 3; None where
    it has no directory."""
    grants: tuple[str, ...] = ()
    """What it sees the directories in descriptors 4 and on as; it may only read them."""
    files: tuple[tuple[str, int], ...] = ()
    """Relative paths and sizes in bytes of what is laid into the directory first."""


class BoundFunction(msgspec.Struct, frozen=True):
    """A function of numbers that needs nothing but its arguments, or an empty world of WASI.

    An order is then these alone, and a report nothing but numbers; see :data:`BINARY_REPORT`.
    """

    entry: str
    signature: FunctionType
    initialize: bool
    """Call ``_initialize`` before it."""


class Preparation(msgspec.Struct, frozen=True):
    """How the compiled module in descriptor 0 is made ready, whatever is then called in it."""

    options: EngineOptions
    memory_export: str | None
    """The exported memory whose size is reported; None where there is no memory, or not just that
    one."""
    memory_bytes: int
    """The guest's memories and tables together, as the process's limits bound them."""
    shares: MemoryShares
    """The bound of each of them."""
    output_bytes: int
    cpu_seconds: int
    fuel: int | None
    has_wasi: bool
    """Whether it runs in a world of WASI, of which each invocation tells."""
    is_component: bool
    function: BoundFunction | None = None
    """What is called, where that is known already."""
    tells_refusals: bool = False
    """Whether the module tells of tables that were refused growth."""
    has_hidden_memories: bool = False
    """Whether there may be memories that are not exported: their sizes take another way."""


class Invocation(msgspec.Struct, frozen=True):
    """One call of a module that was made ready.

    With ``wasi`` set, what the guest writes goes to descriptors 1 and 2, so that it survives a
    child that is killed.
    """

    entry: str
    signature: FunctionType
    args: tuple[int, ...]
    """One bit pattern a parameter, unsigned."""
    is_command: bool
    """Whether the entry returns an exit code rather than results."""
    initialize: bool
    """Call ``_initialize`` before the entry."""
    wasi: WasiContext | None
    component: ComponentCall | None = None
    """Set where the module is a component; ``signature`` and ``args`` are then empty."""


class RunRequest(msgspec.Struct, frozen=True, tag="run"):
    """Make the compiled module in descriptor 0 ready, and call it."""

    preparation: Preparation
    invocation: Invocation

    @property
    def options(self) -> EngineOptions:
        """What shapes the machine code."""
        return self.preparation.options


class ZygoteRequest(msgspec.Struct, frozen=True, tag="template"):
    """Make the compiled module in descriptor 0 ready, then fork a child for each invocation.

    Descriptor 1 is the socket to be asked by, as the forking server is.
    """

    preparation: Preparation

    @property
    def options(self) -> EngineOptions:
        """What shapes the machine code."""
        return self.preparation.options


class ReusableWorkerRequest(msgspec.Struct, frozen=True, tag="resident"):
    """Make the compiled module in descriptor 0 ready, then take invocations until the link closes.

    Each has an instance of its own. Descriptors 1 and 2 are for output, as in an invocation; the
    daemon empties them between two.
    """

    preparation: Preparation

    @property
    def options(self) -> EngineOptions:
        """What shapes the machine code."""
        return self.preparation.options


Request = CompileRequest | RunRequest | ZygoteRequest | ReusableWorkerRequest


class CompileReport(msgspec.Struct, frozen=True):
    """The end of a compilation: a summary, or the reason why there is none."""

    summary: ModuleSummary | None = None
    code: Code = Code.OK
    message: str = ""


class RunReport(msgspec.Struct, frozen=True):
    """The end of a run, as the child saw it."""

    code: Code
    message: str = ""
    results: tuple[int, ...] = ()
    """One bit pattern a result, unsigned."""
    exit_code: int | None = None
    memory_bytes: int | None = None
    run_seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Processor time of the run."""
    stale_code: bool = False
    """The machine code is not of this engine: made by another version, or damaged."""
    component_result: Any = None
    """What a component's function returned, as a plain value."""
    fuel_used: int | None = None


_order_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_invocation_decoder = msgspec.json.Decoder(Invocation)
_encoder = msgspec.json.Encoder()


def encode_frame(message: msgspec.Struct, raw: bytes = b"") -> bytes:
    """Return one whole frame."""
    header = _encoder.encode(message)
    return FRAME.pack(len(header), len(raw)) + header + raw


def decode_request(header: bytes) -> Request:
    """Return the order in a frame's header; ``msgspec.DecodeError`` if it is none."""
    return _order_decoder.decode(header)


def decode_invocation(header: bytes) -> Invocation:
    """Return the invocation in a frame's header; ``msgspec.DecodeError`` if it is none."""
    return _invocation_decoder.decode(header)


def encode_binary_call(args: tuple[int, ...]) -> bytes:
    """Return the frame of a plain function's arguments, one bit pattern each."""
    raw = b"".join(pattern.to_bytes(BINARY_VALUE_BYTES, "little") for pattern in args)
    return FRAME.pack(0, len(raw)) + raw


def binary_report_bytes(signature: FunctionType) -> int:
    """Return the size of a plain function's report, without its frame."""
    return BINARY_REPORT.size + BINARY_VALUE_BYTES * len(signature.results)
