"""Has a module tell whether a table was refused growth, so that an end for want of it is known.

``table.grow`` that is refused returns -1, and most programs then end in a trap. wasmtime does not
tell the one from other traps: its C interface has no callback for it. So the few modules that grow
tables are compiled with a call after each ``table.grow``, of a function that sets a global when it
is given -1. Everything else of the module stays as it is, and so do all its indices.

Reads instructions by the WebAssembly core specification 3.0, section 5.4, and those of threads. A
module with any other instruction is left alone, and so is one in which this finds nothing to do.
"""

from collections.abc import Callable, Iterator
from typing import Final

from wasmdrop.errors import RefusedError
from wasmdrop.sandbox.binary import TABLE_GROW, Outline, Reader

__all__ = ["REFUSED_EXPORT", "telling_refusals"]

#: What the global is exported as.
REFUSED_EXPORT: Final = "wasmdrop:table-refused"

_TYPES, _IMPORTS, _FUNCTIONS, _TABLES, _GLOBALS, _EXPORTS, _CODE = 1, 2, 3, 4, 6, 7, 10

_PREAMBLE_BYTES: Final = 8
_GLOBAL_KIND: Final = 3
_GROW: Final = 0xFC0F

#: Operands: integers (i), so many bytes (1, 4, 8, S for 16), types of blocks and values (t), memory
#: arguments (m), and vectors of integers (v), of types (T) and of catches (c).
_OPERANDS: Final[dict[int, str]] = {
    **dict.fromkeys((0x00, 0x01, 0x05, 0x0A, 0x0B, 0x0F, 0x1A, 0x1B, 0xD1, 0xD3, 0xD4), ""),
    **dict.fromkeys((0x02, 0x03, 0x04), "t"),
    **dict.fromkeys((0x08, 0x0C, 0x0D, 0x10, 0x12, 0x14, 0x15, *range(0x20, 0x27)), "i"),
    0x0E: "vi",
    **dict.fromkeys((0x11, 0x13), "ii"),
    0x1C: "T",
    0x1F: "tc",
    **dict.fromkeys(range(0x28, 0x3F), "m"),
    **dict.fromkeys((0x3F, 0x40, 0x41, 0x42, 0xD0, 0xD2, 0xD5, 0xD6), "i"),
    0x43: "4",
    0x44: "8",
    **dict.fromkeys(range(0x45, 0xC5), ""),
    # References
    **dict.fromkeys((0xFB00, 0xFB01, 0xFB06, 0xFB07, *range(0xFB0B, 0xFB0F), 0xFB10), "i"),
    **dict.fromkeys((*range(0xFB02, 0xFB06), 0xFB08, 0xFB09, 0xFB0A), "ii"),
    **dict.fromkeys((0xFB11, 0xFB12, 0xFB13), "ii"),
    **dict.fromkeys(range(0xFB14, 0xFB18), "i"),
    **dict.fromkeys((0xFB18, 0xFB19), "1iii"),
    **dict.fromkeys((0xFB0F, *range(0xFB1A, 0xFB1F)), ""),
    # Conversions, bulk memory, tables
    **dict.fromkeys((*range(0xFC00, 0xFC08), *range(0xFC13, 0xFC17)), ""),
    **dict.fromkeys((0xFC08, 0xFC0A, 0xFC0C, 0xFC0E), "ii"),
    **dict.fromkeys((0xFC09, 0xFC0B, 0xFC0D, _GROW, 0xFC10, 0xFC11), "i"),
    # Vectors
    **dict.fromkeys(range(0xFD00, 0xFD0C), "m"),
    **dict.fromkeys((0xFD0C, 0xFD0D), "S"),
    **dict.fromkeys(range(0xFD0E, 0xFD15), ""),
    **dict.fromkeys(range(0xFD15, 0xFD23), "1"),
    **dict.fromkeys((*range(0xFD23, 0xFD54), *range(0xFD5E, 0xFE00)), ""),
    **dict.fromkeys(range(0xFD54, 0xFD5C), "m1"),
    **dict.fromkeys((0xFD5C, 0xFD5D), "m"),
    # Threads
    **dict.fromkeys((0xFE00, 0xFE01, 0xFE02, *range(0xFE10, 0xFE4F)), "m"),
    0xFE03: "1",
}
_SIZES: Final = {"1": 1, "4": 4, "8": 8, "S": 16}
_PREFIXES: Final = frozenset({0xFB, 0xFC, 0xFD, 0xFE})
_RELAXED_VECTORS: Final = 0x100
_INDEXED_MEMORY: Final = 0x40
_REFERENCES: Final = frozenset({0x63, 0x64})
_CATCH_ALL: Final = 2


class _UnknownError(Exception):
    """An instruction that is not in the table."""


def telling_refusals(module: bytes) -> bytes | None:
    """Return ``module`` with the calls and the exported global; None if it is left alone.

    Assumes that wasmtime has compiled it.
    """
    try:
        return _Rewriting(module).result()
    except (_UnknownError, RefusedError):
        return None


class _Rewriting:
    def __init__(self, module: bytes) -> None:
        self._module = module
        self._sections = list(_sections(module))
        self._outline = outline = Outline()
        readers: dict[int, Callable[[Reader], object]] = {
            _TYPES: outline.read_types,
            _IMPORTS: outline.read_imports,
            _FUNCTIONS: outline.read_functions,
            _TABLES: outline.storage.read_tables,
        }
        for number, content in self._sections:
            if number in readers:
                readers[number](content.copy())
        self._notes = len(outline.type_indices)
        """The index of the function that notes -1 in 32 bits; the next is that of 64."""

    def result(self) -> bytes | None:
        contents = {number: content for number, content in self._sections if number}
        if _CODE not in contents or _EXPORTS not in contents:
            return None
        if REFUSED_EXPORT.encode() in contents[_EXPORTS].rest():
            return None
        bodies = [self._body(body) for body in _bodies(contents[_CODE].copy())]
        if not any(is_changed for _body, is_changed in bodies):
            return None
        types = len(self._outline.types)
        is_imported = [entry.kind == "global" for entry in self._outline.imports]
        globals_ = _count(contents.get(_GLOBALS)) + sum(is_imported)
        name = REFUSED_EXPORT.encode()
        added = {
            _TYPES: (b"\x60\x01\x7f\x01\x7f", b"\x60\x01\x7e\x01\x7e"),
            _FUNCTIONS: (_leb(types), _leb(types + 1)),
            _GLOBALS: (b"\x7f\x01\x41\x00\x0b",),
            _EXPORTS: (_leb(len(name)) + name + bytes([_GLOBAL_KIND]) + _leb(globals_),),
        }
        minus_one = (b"\x41\x7f\x46", b"\x42\x7f\x51")  # const -1, eq
        tail = b"\x04\x40\x41\x01\x24" + _leb(globals_) + b"\x0b\x20\x00\x0b"
        notes = [b"\x00\x20\x00" + compared + tail for compared in minus_one]
        whole = [body for body, _is_changed in bodies] + notes
        code = _leb(len(whole)) + b"".join(_leb(len(body)) + body for body in whole)
        parts = [self._module[:_PREAMBLE_BYTES]]
        for number, content in self._sections:
            if number == _EXPORTS and _GLOBALS not in contents:
                parts.append(_section(_GLOBALS, _extended(None, added[_GLOBALS])))
            if number == _CODE:
                parts.append(_section(number, code))
            elif number in added:
                parts.append(_section(number, _extended(content, added[number])))
            else:
                parts.append(_section(number, content.rest()))
        return b"".join(parts)

    def _body(self, reader: Reader) -> tuple[bytes, bool]:
        """Return a function's body with a call after each growth, and whether there is any."""
        data, start = reader.data, reader.position
        if TABLE_GROW.search(data, start, reader.end) is None:
            return reader.rest(), False
        for _ in range(reader.count()):
            reader.u32()
            reader.value_type()
        parts = []
        while reader.position < reader.end:
            code = _code(reader)
            if code != _GROW:
                _skip_operands(reader, code)
                continue
            is_wide = self._outline.storage.tables_are_wide[reader.u32()]
            parts += [data[start : reader.position], b"\x10" + _leb(self._notes + is_wide)]
            start = reader.position
        return b"".join([*parts, data[start : reader.end]]), bool(parts)


def _code(reader: Reader) -> int:
    code = reader.byte()
    if code in _PREFIXES:
        number = reader.u32()
        # Relaxed vectors have numbers of nine bits, and no operands.
        code = 0xFDFF if code == 0xFD and number >= _RELAXED_VECTORS else code << 8 | number  # noqa: PLR2004
    return code


def _skip_operands(reader: Reader, code: int) -> None:
    operands = _OPERANDS.get(code)
    if operands is None:
        raise _UnknownError
    for operand in operands:
        if operand in _SIZES:
            reader.part(_SIZES[operand])
        elif operand == "i":
            reader.skip_integer()
        elif operand == "t":
            _skip_type(reader)
        elif operand == "m":
            if reader.u32() & _INDEXED_MEMORY:
                reader.u32()
            reader.unsigned(64)
        else:
            skip = _ELEMENTS[operand]
            for _ in range(reader.count()):
                skip(reader)


def _skip_catch(reader: Reader) -> None:
    if reader.byte() < _CATCH_ALL:  # its tag
        reader.u32()
    reader.u32()


def _skip_type(reader: Reader) -> None:
    """Go past a type of a block or of a value."""
    if reader.data[reader.position] in _REFERENCES:
        reader.byte()
    reader.skip_integer()


_ELEMENTS: Final[dict[str, Callable[[Reader], object]]] = {
    "v": Reader.u32,
    "T": _skip_type,
    "c": _skip_catch,
}


def _sections(module: bytes) -> Iterator[tuple[int, Reader]]:
    reader = Reader(module, _PREAMBLE_BYTES, len(module))
    while reader.position < reader.end:
        number = reader.byte()
        yield number, reader.part(reader.u32())


def _bodies(code: Reader) -> Iterator[Reader]:
    for _ in range(code.count()):
        yield code.part(code.u32())


def _count(content: Reader | None) -> int:
    return 0 if content is None else content.copy().u32()


def _extended(content: Reader | None, added: tuple[bytes, ...]) -> bytes:
    """Return a vector with more elements."""
    if content is None:
        return _leb(len(added)) + b"".join(added)
    rest = content.copy()
    return _leb(rest.u32() + len(added)) + rest.rest() + b"".join(added)


def _section(number: int, content: bytes) -> bytes:
    return bytes([number]) + _leb(len(content)) + content


def _leb(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
