"""Calls on their way to a worker.

A call is its description in MessagePack, preceded by its length, and followed by standard input and
the contents of the files: these may be large, and are not copied to be sent.

Grants never travel: they are directories of the daemon's machine.
"""

import struct
from collections.abc import Mapping
from typing import Final

import msgspec

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.input_values import check_files
from wasmdrop.protocol.module_types import ComponentCall, FunctionType
from wasmdrop.sandbox.host.call import Call

_LENGTH: Final = struct.Struct("<I")


class NotPortableError(Exception):
    """A call that can only run on the daemon's machine. The text says why."""


class InvalidCallError(Exception):
    """Bytes that are not a call. The text says why."""


class _Description(msgspec.Struct, frozen=True):
    """A call, with sizes instead of contents."""

    entry: str
    signature: FunctionType
    args: tuple[int, ...]
    argv: tuple[str, ...]
    env: dict[str, str]
    stdin_bytes: int
    files: tuple[tuple[str, int], ...]
    component: ComponentCall | None
    is_command: bool


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Description)


def encode_call(call: Call) -> list[bytes]:
    """Return a call as bytes in several pieces. Raises ``NotPortableError``."""
    if call.grants:
        raise NotPortableError("its grants are directories of this machine")
    description = _Description(
        entry=call.entry,
        signature=call.signature,
        args=call.args,
        argv=call.argv,
        env=call.env,
        stdin_bytes=len(call.stdin),
        files=tuple((path, len(content)) for path, content in call.files.items()),
        component=call.component,
        is_command=call.is_command,
    )
    try:
        data = _encoder.encode(description)
    except (OverflowError, RecursionError, TypeError, UnicodeEncodeError) as error:
        raise NotPortableError(f"its arguments can't be sent: {error}") from None
    return [_LENGTH.pack(len(data)), data, call.stdin, *call.files.values()]


def decode_call(data: bytes | bytearray) -> Call:
    """Return a call. Raises ``InvalidCallError``."""
    view = memoryview(data)
    try:
        (length,) = _LENGTH.unpack_from(view)
        found = _decoder.decode(view[_LENGTH.size : _LENGTH.size + length])
    except (struct.error, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidCallError(f"it does not decode: {error}") from None
    sizes = (found.stdin_bytes, *(size for _path, size in found.files))
    if min(sizes) < 0 or sum(sizes) != len(view) - _LENGTH.size - length:
        raise InvalidCallError("the sizes of its contents do not add up")
    contents = _cut(view[_LENGTH.size + length :], sizes)
    files = dict(zip((path for path, _size in found.files), contents[1:], strict=True))
    _check_files(files, len(found.files))
    return Call(
        entry=found.entry,
        signature=found.signature,
        args=found.args,
        argv=found.argv,
        env=found.env,
        stdin=contents[0],
        files=files,
        component=found.component,
        is_command=found.is_command,
    )


def _cut(view: memoryview, sizes: tuple[int, ...]) -> list[bytes]:
    contents = []
    for size in sizes:
        contents.append(bytes(view[:size]))
        view = view[size:]
    return contents


def _check_files(files: Mapping[str, bytes], count: int) -> None:
    """Refuse files that no input can have. Raises ``InvalidCallError``."""
    if len(files) != count:
        raise InvalidCallError("two files have the same path")
    try:
        check_files(dict.fromkeys(files, ""))
    except RefusedError as error:
        raise InvalidCallError(error.message) from None
