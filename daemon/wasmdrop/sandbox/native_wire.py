"""The messages between the daemon and the native zygote, which ``guest/native`` implements in C.

They are binary, because a child does little more than to call: JSON would take longer than that.
All integers are little-endian. A text is its size (u32), its bytes, and a NUL; a list is the number
of its items (u32) and the items. The frames are those of :mod:`wasmdrop.sandbox.wire`, without a
header.

Configuration
    A file, which the process that becomes the zygote writes; see
    :mod:`wasmdrop.sandbox.guest.native_zygote`.

Request
    Of a child, as :func:`encode_request` writes it. If the job has a directory, the descriptors of
    the directory and of the grants accompany the first byte. Standard output and standard error, if
    the module imports WASI, accompany the message that requests the child.

Report
    :data:`REPORT`; 8 bytes for each result; the message of a trap or an error (its size and its
    bytes); the number of frames of the backtrace, and the innermost ones, at most
    :data:`FRAMES_SENT`, each an index and a name, which is empty if the function has none. The
    zygote sends one report when it is ready, or why it is not.
"""

import struct
from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import Final

import msgspec

from wasmdrop.sandbox.wire import FRAME, Invocation

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")

#: The numbers of the C API for the types of values.
_KINDS: Final = {"i32": b"\0", "i64": b"\1", "f32": b"\2", "f64": b"\3"}

#: Kind of the result, number of the trap or -1, exit code, number of results; seconds of wall clock
#: and of processor time; bytes of memory, fuel used, refused bytes of a memory, refused elements of
#: a table. -1 is an unknown size or amount of fuel.
REPORT: Final = struct.Struct("<IiIIddqqqq")

#: Frames of a backtrace that a report has.
FRAMES_SENT: Final = 16

#: Largest report: a thousand results, a message of 32 KiB, and frames with names of 512 bytes.
MAX_NATIVE_REPORT_BYTES: Final = 64 * 1024


class Result(IntEnum):
    """The kinds of results of a call or of a preparation."""

    RETURNED = 0
    EXITED = 1
    TRAPPED = 2
    FAILED = 3
    OUTPUT_LIMIT = 4
    NO_ENTRY = 5
    STALE_CODE = 6
    INTERNAL = 7


class NativeReport(msgspec.Struct, frozen=True):
    """A report; see :data:`REPORT`."""

    result: Result
    trap: int | None
    exit_code: int
    values: tuple[int, ...]
    run_seconds: float
    cpu_seconds: float
    memory_bytes: int | None
    fuel_used: int | None
    refused_bytes: int
    refused_elements: int
    message: str
    frames: tuple[str, ...]
    """Names of the innermost functions."""
    frame_count: int
    """Functions of the whole backtrace."""


def encode_text(text: bytes) -> bytes:
    """Return a text as a message has it."""
    return b"%b%b\0" % (_U32.pack(len(text)), text)


def _encode_texts(texts: Collection[str]) -> bytes:
    return _U32.pack(len(texts)) + b"".join(encode_text(text.encode()) for text in texts)


def encode_request(invocation: Invocation, stdin: bytes, files: Mapping[str, bytes]) -> bytes:
    """Return the frame of a request.

    ``files``: contents of the files to create in the directory of the job, by relative path.
    """
    params = invocation.signature.params
    wasi = invocation.wasi
    body = b"".join(
        (
            _U32.pack(invocation.initialize),
            encode_text(invocation.entry.encode()),
            encode_text(b"".join(_KINDS[kind] for kind in params)),
            b"".join(_U64.pack(bits) for bits in invocation.args),
            _U32.pack(len(invocation.signature.results)),
            *map(
                _encode_texts,
                ((), (), (), ())
                if wasi is None
                else (wasi.argv, wasi.env, wasi.env.values(), wasi.grants),
            ),
            encode_text(stdin),
            _U32.pack(len(files)),
            *(encode_text(path.encode()) + encode_text(data) for path, data in files.items()),
        )
    )
    return FRAME.pack(0, len(body)) + body


def encode_failure(message: str) -> bytes:
    """Return the frame of a report that the native program can't be executed."""
    numbers = REPORT.pack(Result.INTERNAL, -1, 0, 0, 0.0, 0.0, -1, -1, 0, 0)
    text = message.encode(errors="replace")
    body = b"%b%b%b%b" % (numbers, _U32.pack(len(text)), text, _U32.pack(0))
    return FRAME.pack(0, len(body)) + body


def decode_report(data: bytes) -> NativeReport:
    """Return a report. Raise ``ValueError`` or ``struct.error`` if it is none."""
    number, trap, exit_code, count, run, cpu, memory, fuel, refused, elements = REPORT.unpack_from(
        data
    )
    offset = REPORT.size
    values = struct.unpack_from(f"<{count}Q", data, offset)
    message, offset = _decode_text(data, offset + 8 * count)
    (frame_count,) = _U32.unpack_from(data, offset)
    offset += _U32.size
    frames = []
    for _ in range(min(frame_count, FRAMES_SENT)):
        (index,) = _U32.unpack_from(data, offset)
        name, offset = _decode_text(data, offset + _U32.size)
        frames.append(name or f"function {index}")
    if offset != len(data):
        raise ValueError(f"it has {len(data)} bytes instead of {offset}")
    return NativeReport(
        Result(number),
        None if trap == -1 else trap,
        exit_code,
        values,
        run,
        cpu,
        None if memory == -1 else memory,
        None if fuel == -1 else fuel,
        refused,
        elements,
        message,
        tuple(frames),
        frame_count,
    )


def _decode_text(data: bytes, offset: int) -> tuple[str, int]:
    (size,) = _U32.unpack_from(data, offset)
    start = offset + _U32.size
    return data[start : start + size].decode(errors="replace"), start + size
