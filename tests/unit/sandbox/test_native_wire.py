"""Unit tests of the messages of the native zygote, byte by byte."""

import contextlib
import math
import struct
from collections.abc import Iterator
from typing import Final

import pytest

from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.sandbox.native_wire import (
    FRAMES_SENT,
    REPORT,
    NativeReport,
    Result,
    decode_report,
    encode_request,
)
from wasmdrop.sandbox.wire import FRAME, Invocation, WasiContext

NO_WASI: Final = bytes(4 * 4)  # no arguments, names and values of variables, and grants


def text(data: bytes) -> bytes:
    """Return a text as a message has it."""
    return struct.pack("<I", len(data)) + data + b"\0"


def frame(frame_bytes: bytes) -> bytes:
    """Return the payload of a frame without a header."""
    header_bytes, payload_bytes = FRAME.unpack_from(frame_bytes)
    assert (header_bytes, payload_bytes) == (0, len(frame_bytes) - FRAME.size)
    return frame_bytes[FRAME.size :]


def report(
    values: tuple[int, ...] = (), message: bytes = b"", frames: tuple[tuple[int, bytes], ...] = ()
) -> bytes:
    """Return a report of a trap."""
    return b"".join(
        (
            REPORT.pack(Result.TRAPPED, 9, 0, len(values), 0.5, 0.25, 65536, 7, 1 << 20, -1),
            struct.pack(f"<{len(values)}Q", *values),
            struct.pack("<I", len(message)) + message,
            struct.pack("<I", len(frames)),
            *(struct.pack("<II", number, len(name)) + name for number, name in frames),
        )
    )


def test_request_of_a_function_has_the_bits_of_its_arguments() -> None:
    """A byte for the kind of each, then 8 bytes for each value."""
    signature = FunctionType(("i32", "i64", "f32", "f64"), ("i32", "f64"))
    args = (1, (1 << 64) - 1, 0x7FA00001, 0x7FF4000000000001)
    invocation = Invocation("run", signature, args, False, True, 3, None)
    assert frame(encode_request(invocation, b"", {})) == (
        struct.pack("<I", 1)
        + text(b"run")
        + text(b"\0\1\2\3")
        + struct.pack("<4Q", *args)
        + struct.pack("<I", 2)
        + NO_WASI
        + text(b"")
        + struct.pack("<I", 0)
    )


def test_request_of_a_command_has_its_input_and_files() -> None:
    """Names and values of variables are lists of their own."""
    wasi = WasiContext(("module.wasm", "é"), {"A": "1", "B": ""}, 3, 1 << 20, ("lib",))
    invocation = Invocation("_start", FunctionType(), (), True, False, 3, wasi)
    payload = frame(encode_request(invocation, b"a\0b", {"d/f": b"x", "g": b""}))
    assert payload == (
        struct.pack("<I", 0)
        + text(b"_start")
        + text(b"")
        + struct.pack("<I", 0)
        + struct.pack("<I", 2) + text(b"module.wasm") + text(b"\xc3\xa9")
        + struct.pack("<I", 2) + text(b"A") + text(b"B")
        + struct.pack("<I", 2) + text(b"1") + text(b"")
        + struct.pack("<I", 1) + text(b"lib")
        + text(b"a\0b")
        + struct.pack("<I", 2) + text(b"d/f") + text(b"x") + text(b"g") + text(b"")
    )  # fmt: skip


def test_report_decodes_to_its_fields() -> None:
    """A function without a name has its number."""
    data = report((7, (1 << 64) - 1), b"unreachable", ((3, b"inner"), (0, b"")))
    assert decode_report(data) == NativeReport(
        result=Result.TRAPPED,
        trap=9,
        exit_code=0,
        values=(7, (1 << 64) - 1),
        run_seconds=0.5,
        cpu_seconds=0.25,
        memory_bytes=65536,
        fuel_used=7,
        refused_bytes=1 << 20,
        refused_elements=-1,
        message="unreachable",
        frames=("inner", "function 0"),
        frame_count=2,
    )


def test_report_with_unknown_numbers_has_none() -> None:
    """-1 stands for them; an exit code is unsigned."""
    fixed = REPORT.pack(Result.EXITED, -1, (1 << 32) - 1, 0, 0.0, 0.0, -1, -1, 0, 0)
    decoded = decode_report(fixed + bytes(8))
    assert (decoded.trap, decoded.memory_bytes, decoded.fuel_used) == (None, None, None)
    assert decoded.exit_code == (1 << 32) - 1


def test_report_with_more_frames_than_are_sent_keeps_their_number() -> None:
    """A backtrace of an endless recursion has thousands."""
    frames = tuple((number, b"f") for number in range(FRAMES_SENT))
    data = bytearray(report(frames=frames))
    at = REPORT.size + 4
    assert data[at : at + 4] == struct.pack("<I", FRAMES_SENT)
    data[at : at + 4] = struct.pack("<I", 5000)
    decoded = decode_report(bytes(data))
    assert (len(decoded.frames), decoded.frame_count) == (FRAMES_SENT, 5000)


def test_report_with_text_that_is_not_utf_8_is_decoded() -> None:
    """A guest chooses the names of its functions, and a message may be cut in a character."""
    decoded = decode_report(report((), b"\xa9 \xff", ((1, b"\xc3"),)))
    assert (decoded.message, decoded.frames) == ("\ufffd \ufffd", ("\ufffd",))


def test_report_that_is_too_short_or_too_long_is_refused() -> None:
    """At every length."""
    whole = report((7,), b"message", ((3, b"inner"), (0, b"")))
    for size in range(len(whole)):
        with pytest.raises((ValueError, struct.error)):
            decode_report(whole[:size])
    with pytest.raises(ValueError, match="instead of"):
        decode_report(whole + b"\0")


@pytest.mark.parametrize("number", [len(Result), 255, (1 << 32) - 1])
def test_report_with_an_unknown_result_is_refused(number: int) -> None:
    """Only the known kinds have a meaning."""
    data = bytearray(report())
    data[:4] = struct.pack("<I", number)
    with pytest.raises(ValueError, match="Result"):
        decode_report(bytes(data))


def _changed(data: bytes) -> Iterator[bytes]:
    """Yield copies with another byte, or with another number at any place."""
    for at in range(len(data)):
        for value in (0, 1, 127, 128, 255):
            yield data[:at] + bytes([value]) + data[at + 1 :]
        for number in (0xFFFFFFFF, 0x7FFFFFFF, 0x20000000, 17):
            yield (data[:at] + struct.pack("<I", number) + data[at + 4 :])[: len(data)]


def test_report_with_any_change_decodes_or_raises_what_is_documented() -> None:
    """No other exception, and no more frames or values than its bytes hold."""
    data = report((7, 8), b"message", ((3, b"inner"), (0, b"")))
    count = 0
    for changed in _changed(data):
        with contextlib.suppress(ValueError, struct.error):
            decoded = decode_report(changed)
            count += 1
            assert 8 * len(decoded.values) + sum(map(len, decoded.frames)) <= 2 * len(data)
    assert count > 100


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
def test_report_with_any_number_of_seconds_decodes(seconds: float) -> None:
    """The host side judges them."""
    fixed = REPORT.pack(Result.RETURNED, -1, 0, 0, seconds, seconds, 0, -1, 0, 0)
    decoded = decode_report(fixed + bytes(8))
    assert struct.pack("<d", decoded.run_seconds) == struct.pack("<d", seconds)
