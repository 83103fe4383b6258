"""Find the instructions of a function that grow a memory or a table.

Knows the instructions of the WebAssembly core specification 3.0, section 5.4, and of the threads
proposal. A regular expression skips most of them in runs, because a module may have millions.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from wasmdrop.sandbox.guest.binary_reader import BinaryReader

MEMORY_GROW: Final = 0x40
TABLE_GROW: Final = 0xFC0F

#: Operands by instruction: integer (i), number of bytes (1, 4, 8, S for 16), block or value type
#: (t), memory argument (m), and vector of integers (v), of types (T) and of catch clauses (c).
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
    **dict.fromkeys((0xFC09, 0xFC0B, 0xFC0D, TABLE_GROW, 0xFC10, 0xFC11), "i"),
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
_GROWTHS: Final = frozenset({MEMORY_GROW, TABLE_GROW})


class UnknownInstructionError(Exception):
    """An instruction that is not in the table."""


class Growth(NamedTuple):
    """One ``memory.grow`` or ``table.grow``."""

    start: int
    end: int
    """Offsets in the module."""
    code: int
    target: int
    """The index of the memory or table."""


def growths(reader: BinaryReader) -> Iterator[Growth]:
    """Yield the growths among the instructions of ``reader``, and skip all of them.

    Assumes that they are valid. Raises ``UnknownInstructionError``.
    """
    while True:
        run = _RUN.match(reader.data, reader.position, reader.end)
        assert run is not None  # noqa: S101 - the pattern matches the empty string
        reader.position = start = run.end()
        if start == reader.end:
            return
        code = _code(reader)
        if code in _GROWTHS:
            target = reader.u32()
            yield Growth(start, reader.position, code, target)
        else:
            _skip_operands(reader, code)


def _code(reader: BinaryReader) -> int:
    code = reader.byte()
    if code in _PREFIXES:
        number = reader.u32()
        # Relaxed vector instructions have numbers of nine bits, and no operands.
        code = 0xFDFF if code == 0xFD and number >= _RELAXED_VECTORS else code << 8 | number  # noqa: PLR2004
    return code


def _skip_operands(reader: BinaryReader, code: int) -> None:
    operands = _OPERANDS.get(code)
    if operands is None:
        raise UnknownInstructionError
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


def _skip_catch(reader: BinaryReader) -> None:
    if reader.byte() < _CATCH_ALL:  # its tag
        reader.u32()
    reader.u32()


def _skip_type(reader: BinaryReader) -> None:
    """Skip a block type or a value type."""
    if reader.data[reader.position] in _REFERENCES:
        reader.byte()
    reader.skip_integer()


_ELEMENTS: Final[dict[str, Callable[[BinaryReader], object]]] = {
    "v": BinaryReader.u32,
    "T": _skip_type,
    "c": _skip_catch,
}


_INTEGER: Final = rb"[\x80-\xff]*[\x00-\x7f]"
#: Patterns of the operands that a run may contain; another operand ends the run.
_SHAPES: Final = {
    "i": _INTEGER,
    "1": rb".",
    "4": rb".{4}",
    "8": rb".{8}",
    "S": rb".{16}",
    "t": rb"(?![\x63\x64])" + _INTEGER,
    "m": rb"[\x00-\x3f]" + _INTEGER,
}


def _run() -> re.Pattern[bytes]:
    """Return a pattern of any number of instructions that grow nothing."""
    by_shape: defaultdict[tuple[str, int], set[bytes]] = defaultdict(set)
    for code, operands in _OPERANDS.items():
        if code not in _GROWTHS and set(operands) <= _SHAPES.keys():
            prefix, number = divmod(code, 0x100)
            encoded = bytes([number & 0x7F | 0x80, 1] if prefix and number > 0x7F else [number])  # noqa: PLR2004
            by_shape[operands, prefix * 2 + len(encoded) - 1].add(encoded)
    alternatives = []
    for (operands, kind), codes in sorted(by_shape.items()):
        prefix, is_long = divmod(kind, 2)
        one_of = b"[" + b"".join(rb"\x%02x" % code[0] for code in sorted(codes)) + b"]"
        alternatives.append(
            (rb"\x%02x" % prefix if prefix else b"")
            + one_of
            + (rb"\x01" if is_long else b"")
            + b"".join(_SHAPES[operand] for operand in operands)
        )
    # Possessive, so that the engine keeps no state for backtracking.
    return re.compile(b"(?:" + b"|".join(alternatives) + b")*+", re.DOTALL)


_RUN: Final = _run()
