"""Calls on their way to a worker."""

import struct

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.fleet.outcome_strategies import calls
from tests.support.strategies import mutations
from wasmdrop.fleet.bodies.call_codec import (
    InvalidCallError,
    NotPortableError,
    decode_call,
    encode_call,
)
from wasmdrop.protocol.module_types import ComponentCall, FunctionType, WitFunction, WitType
from wasmdrop.sandbox.host.call import Call

CALL = Call(
    "f",
    FunctionType(("i64", "f64"), ("f32",)),
    ((1 << 64) - 1, 0x7FF4000000000001),
    argv=("module.wasm", "a b", "é"),
    env={"A": "", "B": "c=d"},
    stdin=b"\x00\xff",
    files={"a/b.txt": b"content", "empty": b""},
)


def roundtrip(call: Call) -> Call:
    """Encode and decode a call."""
    return decode_call(b"".join(encode_call(call)))


@given(calls)
@example(CALL)
@example(msgspec.structs.replace(CALL, files={}, stdin=b"", is_command=True))
def test_call_is_decoded_as_it_was_encoded(call: Call) -> None:
    """Every call that a local executor takes, but for grants."""
    assert roundtrip(call) == call


def test_contents_are_not_copied_to_be_sent() -> None:
    """The pieces are the objects of the call."""
    pieces = encode_call(CALL)
    assert any(piece is CALL.stdin for piece in pieces)
    assert any(piece is CALL.files["a/b.txt"] for piece in pieces)


def test_grants_do_not_travel() -> None:
    """A daemon runs such a job itself."""
    call = msgspec.structs.replace(CALL, grants={"data": "/srv/data"})
    with pytest.raises(NotPortableError, match="grants are directories of this machine"):
        encode_call(call)


@pytest.mark.parametrize("value", [1 << 64, "\ud800", object()])
def test_value_that_cannot_be_encoded_is_not_portable(value: object) -> None:
    """Whatever it is, the daemon runs such a job itself."""
    component = ComponentCall(WitFunction((("a", WitType("u8")),)), (value,))
    with pytest.raises(NotPortableError, match="can't be sent"):
        encode_call(msgspec.structs.replace(CALL, component=component))


def with_files(*files: tuple[str, int]) -> bytes:
    """Return an encoded call with other paths and sizes of its files."""
    length, data, stdin, *contents = encode_call(CALL)
    fields = {**msgspec.msgpack.decode(data), "files": files}
    data = msgspec.msgpack.encode(fields)
    assert length
    return b"".join([struct.pack("<I", len(data)), data, stdin, *contents])


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("../a", 7)], "plain relative paths"),
        ([("/a", 7)], "plain relative paths"),
        ([("a//b", 7)], "plain relative paths"),
        ([("a\0b", 7)], "plain relative paths"),
        ([("a", 7), ("a/b", 0)], "can't be a file and a directory"),
        ([("a", 3), ("a", 4)], "same path"),
        ([("a", 8)], "do not add up"),
        ([("a", 6)], "do not add up"),
        ([("a", -1), ("b", 8)], "do not add up"),
    ],
)
def test_files_that_no_input_can_have_are_refused(
    files: list[tuple[str, int]], reason: str
) -> None:
    """A worker does not trust the daemon with paths either."""
    with pytest.raises(InvalidCallError, match=reason):
        decode_call(with_files(*files))


@given(mutations(b"".join(encode_call(CALL))))
def test_mutated_call_decodes_or_is_refused(data: bytes) -> None:
    """With one exception, and no other; grants are never in it."""
    try:
        call = decode_call(data)
    except InvalidCallError:
        return
    assert call.grants == {}


@given(st.binary(max_size=100))
def test_bytes_that_are_no_call_are_refused(data: bytes) -> None:
    """Of any length."""
    with pytest.raises(InvalidCallError):
        decode_call(data)
