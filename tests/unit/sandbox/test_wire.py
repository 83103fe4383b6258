"""Unit tests of the wire format: the bytes that a guest in another language must read and write."""

import json

import msgspec
import pytest

from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox import wire
from wasmdrop.sandbox.memory_shares import MemoryShares
from wasmdrop.sandbox.wire import (
    CompileRequest,
    EngineOptions,
    Invocation,
    Preparation,
    RunReport,
    RunRequest,
    WasiContext,
    ZygoteRequest,
    decode_request,
    encode_frame,
)

PREPARATION = Preparation(
    options=EngineOptions(),
    memory_export="memory",
    memory_bytes=1 << 24,
    shares=MemoryShares(1 << 24, 0, 1 << 24, 0),
    output_bytes=1000,
    fuel=None,
    has_wasi=True,
    is_component=False,
)
INVOCATION = Invocation(
    entry="_start",
    signature=FunctionType(),
    args=(),
    is_command=True,
    initialize=False,
    cpu_seconds=2,
    wasi=WasiContext(("module.wasm",), {}, stdin_bytes=3),
)
REQUESTS = [
    CompileRequest(EngineOptions(fuel=True), 10, 100, 5, 1 << 20),
    RunRequest(INVOCATION, PREPARATION),
    ZygoteRequest(PREPARATION),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
def test_request_of_any_type_is_a_frame_with_its_type(request_: wire.Request) -> None:
    """Two lengths, a JSON object whose type is documented, and the payload."""
    frame = encode_frame(request_, b"raw")
    header_bytes = int.from_bytes(frame[:4], "little")
    assert int.from_bytes(frame[4:8], "little") == 3
    header = frame[8 : 8 + header_bytes]
    assert frame[8 + header_bytes :] == b"raw"
    documented = f"``{json.loads(header)['type']}``"
    assert documented in (wire.__doc__ or "")
    assert f"``{type(request_).__name__}``" in (wire.__doc__ or "")
    assert decode_request(header) == request_


def test_report_with_absent_fields_has_their_defaults() -> None:
    """A guest need not write what does not apply."""
    assert msgspec.json.decode(b'{"code":"trap"}', type=RunReport) == RunReport(Code.TRAP)


@pytest.mark.parametrize(
    "message", ["FORK", "PING", "SWEEP", "CHILD", "EXIT", "NO_CHILD", "MISSING", "PONG"]
)
def test_message_of_a_control_socket_is_documented(message: str) -> None:
    """By its first word."""
    word = getattr(wire, message).decode()
    assert f"``{word} " in (wire.__doc__ or "") or f"``{word}``" in (wire.__doc__ or "")
