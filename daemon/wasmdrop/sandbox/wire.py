"""The wire format between the daemon (host) and the processes of the sandbox (guest).

This file is the contract: a guest in any language that keeps to it can replace the present one. All
integers are little-endian, all JSON is UTF-8. A class below is a JSON object with its fields, a
tuple an array, None is null; so are the types of :mod:`wasmdrop.protocol.module_types`. A reader
ignores unknown fields; a writer may omit a field that has its default.

Links
    A child has one link to the daemon, a stream socket (``AF_UNIX``, ``SOCK_STREAM``). The daemon
    sends one request, the child answers with one report. The child then waits until the daemon
    closes the link, and exits.

Frames
    Requests and reports are frames::

        offset  size  field
        0       4     H, size of the header in bytes (u32)
        4       4     P, size of the payload in bytes (u32)
        8       H     header: one JSON object, or nothing (native zygote)
        8 + H   P     payload: raw bytes

    File descriptors accompany the first byte of a request (``SCM_RIGHTS``), at most
    ``MAX_DESCRIPTORS``. A report has no descriptors.

Requests
    The header is a ``Request``: a JSON object whose ``type`` selects the class below.

    =================  ==================  ====================================  ==========
    ``type``           class               descriptors                           payload
    =================  ==================  ====================================  ==========
    ``compile``        ``CompileRequest``  module, machine code                  none
    ``run``            ``RunRequest``      see below                             see below
    ``zygote``         ``ZygoteRequest``   machine code, control socket, and     none
                                           directories (below)
    =================  ==================  ====================================  ==========

    Descriptors of ``run``, each if it applies, in this order: machine code; stdout and stderr (if
    the module imports WASI); the directory of the job (if ``wasi.disk_bytes`` is set); one for each
    of ``wasi.grants``. The payload of ``run`` is standard input (``wasi.stdin_bytes``), then the
    contents of ``wasi.files`` in their order.

    Those of ``zygote``, of which there are none without ``preparation``, are followed, if
    ``disk_bytes`` is set, by the parent of the directories of the module's jobs and by the grants.
    A child of a zygote is prepared, and takes requests of :mod:`wasmdrop.sandbox.native_wire`.

Reports
    The header is ``CompileReport`` (for ``compile``) or ``RunReport`` (for ``run``) as a JSON
    object; the payload is empty. A child may report the codes ``ok``, ``exit``, ``trap``,
    ``memory-limit``, ``fuel-limit``, ``output-limit``, ``link-error``, ``entry-not-found`` and
    ``internal``; a compiler ``ok``, ``invalid-module``, ``compile-limit`` and ``internal``.

Output
    A child of the fork server appends the guest's output to its stdout and stderr, at most
    ``output_bytes`` together; the next byte ends the call with ``output-limit``. In a child of a
    zygote the kernel limits the size of each, and the daemon checks both together.

Control socket
    A process that forks (the fork server, a zygote) has a control socket (``AF_UNIX``,
    ``SOCK_SEQPACKET``). It exits when the daemon closes it. One packet is one message in ASCII:

    ========================  =========  =========================================================
    message                   from       meaning
    ========================  =========  =========================================================
    ``fork [SECONDS]``        daemon     fork a child
    ``ping``                  daemon     answer ``pong`` (fork server)
    ``sweep``                 daemon     kill processes that children left behind (fork server)
    ``child PID``             process    forked; descriptors: the daemon's end of the link, a pidfd
    ``exit PID STATUS USEC``  process    the child ended: wait status, processor time in µs
    ``none ERRNO``            zygote     cannot fork (any more)
    ``missing TEXT``          server     parts of confinement that are missing; empty if none
    ========================  =========  =========================================================

    A child of a zygote confines itself before its request comes. So its limit of processor time,
    SECONDS, comes with the message; it equals ``cpu_seconds`` of its invocation.

    If the module of a zygote imports WASI, the descriptors of stdout and stderr accompany each
    ``fork``; the child has them as descriptors 1 and 2.

Trust
    The guest may have taken over the child that reports, or the zygote that forks. The daemon reads
    at most the limits below, decodes into these types only, and checks each value against its
    request.
"""

import struct
from typing import Any, Final

import msgspec

from wasmdrop.protocol.module_types import ComponentCall, FunctionType, ModuleSummary
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.memory_shares import MemoryShares

#: First words of the messages on a control socket.
FORK: Final = b"fork"
PING: Final = b"ping"
PONG: Final = b"pong"
SWEEP: Final = b"sweep"
CHILD: Final = b"child"
EXIT: Final = b"exit"
NO_CHILD: Final = b"none"
MISSING: Final = b"missing"

#: Size of the header, size of the payload.
FRAME: Final = struct.Struct("<II")

#: Machine code, two streams and a directory; the rest is for grants.
MAX_DESCRIPTORS: Final = 4 + 16

#: ``argv[0]`` of a WASI program.
PROGRAM_NAME: Final = "module.wasm"

#: Largest header of a ``CompileReport``. A summary has at most 2 MiB of names and 1 MiB of types;
#: JSON may escape a character with six bytes.
MAX_REPORT_BYTES: Final = 16 * 1024 * 1024

#: Largest header of a ``RunReport``: a message of a few kilobytes and at most a thousand results,
#: the limit of wasmtime and of WebAssembly's JavaScript interface. The result of a component may
#: take the job's output limit besides.
MAX_RUN_REPORT_BYTES: Final = 128 * 1024


class EngineOptions(msgspec.Struct, frozen=True):
    """The options that shape the machine code; they are part of its file name."""

    fuel: bool = False
    """Count fuel. Costs about a quarter of the speed, so it is off unless a job asks for it."""

    deterministic: bool = False
    """Canonical NaNs, deterministic relaxed SIMD, a fixed clock, seeded randomness, and fuel."""

    @property
    def token(self) -> str:
        """Return a short name for file names and logs."""
        if self.deterministic:
            return "deterministic"
        return "fuel" if self.fuel else "plain"

    @property
    def counts_fuel(self) -> bool:
        """Whether fuel is counted, with or without a limit."""
        return self.fuel or self.deterministic


class CompileRequest(msgspec.Struct, frozen=True, tag="compile"):
    """Compile the module and write the machine code."""

    options: EngineOptions
    module_bytes: int
    code_bytes: int
    """Limit of the machine code."""
    cpu_seconds: int
    memory_bytes: int


class WasiContext(msgspec.Struct, frozen=True):
    """What a WASI program gets."""

    argv: tuple[str, ...]
    env: dict[str, str]
    stdin_bytes: int
    disk_bytes: int | None = None
    """Size limit of a file in the directory of the job; null if it has no directory."""
    grants: tuple[str, ...] = ()
    """Names under which it sees the granted directories, which it may only read."""
    files: tuple[tuple[str, int], ...] = ()
    """Relative paths and sizes in bytes of the files to create in the directory first."""


class Preparation(msgspec.Struct, frozen=True):
    """How to prepare a compiled module, independently of a single call.

    Jobs share a zygote if their modules and preparations are equal. Limits that a child can apply
    after the fork, such as the processor time, are therefore part of the invocation.
    """

    options: EngineOptions
    memory_export: str | None
    """The exported memory whose size is reported; null if the module has no memory, or hidden
    ones."""
    memory_bytes: int
    """Limit of the guest's memories and tables together."""
    shares: MemoryShares
    """Limit of each of them."""
    output_bytes: int
    """Limit of standard output and standard error together."""
    fuel: int | None
    has_wasi: bool
    """Whether the module imports WASI; each invocation then has ``wasi``."""
    is_component: bool
    disk_bytes: int | None = None
    """Size limit of a file in the directory of a job; null if jobs have none."""
    directories: tuple[tuple[int, int], ...] = ()
    """Device and inode of the parent of the directories of the module's jobs, and of the granted
    directories. A zygote confines itself to these."""
    tells_refusals: bool = False
    """Whether the machine code records refused growth of memories and tables in globals."""
    has_hidden_memories: bool = False
    """Whether there may be memories that are not exported, so that their sizes are read from the
    address map of the process."""


class Invocation(msgspec.Struct, frozen=True):
    """One call of a prepared module."""

    entry: str
    signature: FunctionType
    args: tuple[int, ...]
    """One bit pattern per parameter, unsigned."""
    is_command: bool
    """Whether the entry returns an exit code instead of results."""
    initialize: bool
    """Call ``_initialize`` before the entry."""
    cpu_seconds: int
    """Processor time that the kernel allows, as a second line of defence behind the daemon's
    timeout. A child of a zygote has it from the fork on."""
    wasi: WasiContext | None
    component: ComponentCall | None = None
    """Set if the module is a component; ``signature`` and ``args`` are then empty."""


class RunRequest(msgspec.Struct, frozen=True, tag="run"):
    """Prepare the module, and run one call."""

    invocation: Invocation
    preparation: Preparation


class ZygoteRequest(msgspec.Struct, frozen=True, tag="zygote"):
    """Execute the native program, which prepares the module and forks children for it."""

    preparation: Preparation | None
    """Null: the program only reports whether it works on this host."""
    module: str = ""
    """Digest of the module, for the title of the process."""


Request = CompileRequest | RunRequest | ZygoteRequest


class CompileReport(msgspec.Struct, frozen=True):
    """The result of a compilation: a summary, or the reason why there is none."""

    summary: ModuleSummary | None = None
    code: Code = Code.OK
    message: str = ""
    lacks_room: bool = False
    """The disk of the machine code is full."""


class RunReport(msgspec.Struct, frozen=True):
    """The result of a call, as the child reports it."""

    code: Code
    message: str = ""
    results: tuple[int, ...] = ()
    """One bit pattern per result, unsigned."""
    exit_code: int | None = None
    memory_bytes: int | None = None
    run_seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Processor time of the call."""
    stale_code: bool = False
    """The engine cannot load the machine code: it is damaged, or of another version."""
    component_result: Any = None
    """The result of a component's function, as a plain value (see
    :mod:`wasmdrop.protocol.component_values`)."""
    fuel_used: int | None = None


_request_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_encoder = msgspec.json.Encoder()


def encode_frame(message: msgspec.Struct, payload: bytes = b"") -> bytes:
    """Return the frame of a request or report."""
    header = _encoder.encode(message)
    return FRAME.pack(len(header), len(payload)) + header + payload


def decode_request(header: bytes) -> Request:
    """Return the request in a frame's header. Raise ``msgspec.DecodeError`` if there is none."""
    return _request_decoder.decode(header)
