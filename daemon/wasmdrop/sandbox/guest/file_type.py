"""Recognize modules, components and other file formats by their first bytes."""

from typing import Final, Literal

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.guest.toolchains import FILE_FORMATS

#: Bytes at the beginning of a file that are examined: the magic number of tar is at offset 257.
HEAD_BYTES: Final = 512

PREAMBLE_BYTES: Final = 8
_MAGIC: Final = b"\0asm"
_MODULE_VERSION: Final = b"\x01\0\0\0"
_COMPONENT_VERSION: Final = b"\x0d\0\x01\0"


def refuse_unless_wasm(head: bytes) -> Literal["component", "module"]:
    """Return whether a file with the first bytes ``head`` is a module or a component.

    Eight bytes are enough for WebAssembly, and :data:`HEAD_BYTES` or the whole file to recognize
    other formats. Raises ``RefusedError`` with ``INVALID_MODULE``, whose message names the
    actual format and the remedy.
    """
    if head[:4] == _MAGIC:
        version = head[4:PREAMBLE_BYTES]
        if version == _MODULE_VERSION:
            return "module"
        if version == _COMPONENT_VERSION:
            return "component"
    raise RefusedError(Code.INVALID_MODULE, f"the file is not WebAssembly: {_guess(head)}")


def _guess(head: bytes) -> str:
    if not head:
        return "it is empty; copy it to a temporary name, then rename it into place"
    if len(head) < PREAMBLE_BYTES and (_MAGIC + _MODULE_VERSION).startswith(head):
        return f"it is cut short after {len(head)} bytes; copy the whole file"
    if head.startswith(_MAGIC):
        return (
            f"expected version {_MODULE_VERSION.hex(' ')} (a module) or "
            f"{_COMPONENT_VERSION.hex(' ')} (a component), got {head[4:PREAMBLE_BYTES].hex(' ')}"
        )
    for file in FILE_FORMATS:
        if file.beginning.match(head):
            return f"it is {file.what}; {file.remedy}"
    shown = bounded_text(repr(head[:4])[1:])
    return f"expected it to begin with {_MAGIC.hex(' ')}, got {head[:4].hex(' ')} ({shown})"
