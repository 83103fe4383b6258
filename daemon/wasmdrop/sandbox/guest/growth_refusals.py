"""Instrument a module so that it records refused growth of a memory or table.

``memory.grow`` and ``table.grow`` return -1 if they are refused, and most programs then end in a
trap or with an exit code. wasmtime's C API has no callback for this. So each such instruction is
replaced by a call of an added function, which grows the memory or table and records a refusal in an
exported global. The rest of the module, including all its indices, is unchanged.

A module with an unknown instruction is not instrumented, nor is a component: the globals of its
modules can't be read from outside.
"""

import re
from collections.abc import Callable
from typing import Final

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.sandbox.failures import PAST_MAXIMUM
from wasmdrop.sandbox.guest.binary_reader import BinaryReader
from wasmdrop.sandbox.guest.file_type import PREAMBLE_BYTES
from wasmdrop.sandbox.guest.instructions import (
    MEMORY_GROW,
    TABLE_GROW,
    UnknownInstructionError,
    growths,
)
from wasmdrop.sandbox.guest.module_parser import ModuleParser

#: Export names of the globals. Each is a 64-bit integer: 0, or the requested size at the last
#: refusal, in bytes of a memory or elements of a table.
MEMORY_EXPORT: Final = "wasmdrop:memory-refused"
TABLE_EXPORT: Final = "wasmdrop:table-refused"
_EXPORT_NAMES: Final = {MEMORY_GROW: MEMORY_EXPORT, TABLE_GROW: TABLE_EXPORT}

_TYPES, _IMPORTS, _FUNCTIONS, _TABLES, _MEMORIES, _GLOBALS, _EXPORTS = range(1, 8)
_CODE: Final = 10


_GLOBAL_KIND: Final = 3
_I32, _I64 = b"\x7f", b"\x7e"
#: A mutable global of 64 bits that is 0 at first.
_GLOBAL: Final = _I64 + b"\x01\x42\x00\x0b"

#: ``memory.grow`` of the only memory, or ``table.grow``; the last byte may begin a longer encoding.
_MAY_GROW: Final = re.compile(rb"\x40[\x00\x80]|\xfc[\x0f\x8f]", re.DOTALL)
#: The same with several memories.
_MAY_GROW_ONE: Final = re.compile(rb"\x40|\xfc[\x0f\x8f]", re.DOTALL)


def instrument_growth(module: bytes) -> bytes | None:
    """Return the instrumented module; None if there is nothing to instrument or no way to do it.

    Assumes that the module is valid.
    """
    try:
        return _Rewriter(module).result()
    except (UnknownInstructionError, RefusedError):
        return None


class _Rewriter:
    def __init__(self, module: bytes) -> None:
        self._module = module
        reader = BinaryReader(module, PREAMBLE_BYTES, len(module))
        self._sections = [(number, content) for _start, number, content in reader.sections()]
        self._parser = parser = ModuleParser()
        readers: dict[int, Callable[[BinaryReader], object]] = {
            _TYPES: parser.read_types,
            _IMPORTS: parser.read_imports,
            _FUNCTIONS: parser.read_functions,
            _TABLES: parser.declared_memory.read_tables,
            _MEMORIES: parser.declared_memory.read_memories,
        }
        for number, content in self._sections:
            if number in readers:
                readers[number](content.copy())
        self._growers: dict[tuple[int, int], int] = {}
        """Indices of the added functions, by instruction and index of the memory or table."""
        self._globals: dict[int, int] = {}
        """Indices of the added globals, by instruction."""
        self._first_global = 0

    def result(self) -> bytes | None:
        contents = {number: content for number, content in self._sections if number}
        if _CODE not in contents or _EXPORTS not in contents:
            return None
        exports = contents[_EXPORTS].rest()
        if any(name.encode() in exports for name in _EXPORT_NAMES.values()):
            return None
        imported = [entry.kind for entry in self._parser.imports]
        if "memory" in imported or "table" in imported:
            return None  # it can't be linked anyway
        self._first_global = imported.count("global") + _count(contents.get(_GLOBALS))
        code = self._changed(contents[_CODE].copy())
        if not self._growers:
            return None
        types = len(self._parser.types)
        functions = len(self._growers)
        added = {
            _TYPES: [self._type(*grower) for grower in self._growers],
            _FUNCTIONS: [_leb(types + number) for number in range(functions)],
            _GLOBALS: [_GLOBAL] * len(self._globals),
            _EXPORTS: [
                _leb(len(name)) + name.encode() + bytes([_GLOBAL_KIND]) + _leb(index)
                for kind, index in self._globals.items()
                for name in (_EXPORT_NAMES[kind],)
            ],
        }
        for grower in self._growers:
            body = self._grower(*grower)
            code += [_leb(len(body)), body]
        count = _leb(_count(contents[_CODE]) + functions)
        parts: list[bytes | memoryview] = [self._module[:PREAMBLE_BYTES]]
        for number, content in self._sections:
            if number == _EXPORTS and _GLOBALS not in contents:
                parts += _section(_GLOBALS, [_extended(None, added[_GLOBALS])])
            if number == _CODE:
                parts += _section(number, [count, *code])
            elif number in added:
                parts += _section(number, [_extended(content, added[number])])
            else:
                parts += _section(number, [content.rest()])
        return b"".join(parts)

    def _changed(self, code: BinaryReader) -> list[bytes | memoryview]:
        """Return the functions with each growth replaced by a call."""
        has_one = len(self._parser.declared_memory.memories) <= 1
        may_grow = _MAY_GROW if has_one else _MAY_GROW_ONE
        view = memoryview(self._module)
        parts: list[bytes | memoryview] = []
        count = code.count()
        kept = code.position
        for _ in range(count):
            start = code.position
            body = code.part(code.u32())
            if may_grow.search(body.data, body.position, body.end) is None:
                continue
            changed = self._body(body)
            if changed is not None:
                parts += [view[kept:start], _leb(len(changed)), changed]
                kept = code.position
        return [*parts, view[kept : code.position]]

    def _body(self, body: BinaryReader) -> bytes | None:
        """Return a function's body with the calls; None if it grows nothing."""
        parts = []
        kept = body.position
        for _ in range(body.count()):
            body.u32()
            body.value_type()
        for growth in growths(body):
            call = b"\x10" + _leb(self._index(growth.code, growth.target))
            parts += [body.data[kept : growth.start], call]
            kept = growth.end
        return b"".join([*parts, body.data[kept : body.end]]) if parts else None

    def _index(self, code: int, index: int) -> int:
        """Return the index of the added function that replaces this instruction."""
        if code not in self._globals:
            self._globals[code] = self._first_global + len(self._globals)
        first = len(self._parser.type_indices)
        return self._growers.setdefault((code, index), first + len(self._growers))

    def _type(self, code: int, index: int) -> bytes:
        declared = self._parser.declared_memory
        if code == MEMORY_GROW:
            number = _I64 if declared.memories[index].is_wide else _I32
            return b"\x60\x01" + number + b"\x01" + number
        table = declared.tables[index]
        number = _I64 if table.size.is_wide else _I32
        return b"\x60\x02" + table.element + number + b"\x01" + number

    def _grower(self, code: int, index: int) -> bytes:
        """Return the body of a function that grows, and records a refusal."""
        declared = self._parser.declared_memory
        is_memory = code == MEMORY_GROW
        size = declared.memories[index] if is_memory else declared.tables[index].size
        power = size.page_power
        widened = b"" if size.is_wide else b"\xad"  # i64.extend_i32_u
        given = b"\x20" + _leb(0 if is_memory else 1)  # local.get
        if is_memory:
            grow = given + b"\x40" + _leb(index)
            now = b"\x3f" + _leb(index) + widened
        else:
            grow = b"\x20\x00" + given + b"\xfc\x0f" + _leb(index)
            now = b"\xfc\x10" + _leb(index) + widened
        result = _leb(1 if is_memory else 2)
        is_refused = b"\x42\x7f\x51" if size.is_wide else b"\x41\x7f\x46"  # const -1, eq
        most = size.maximum
        if most is None:
            most = (1 << (64 if size.is_wide else 32) - power) - (not is_memory or power == 0)
        wanted = now + given + widened + b"\x7c\x42" + _signed_leb(power) + b"\x86"  # add, shl
        fits = given + widened + b"\x42" + _signed_leb(most) + now + b"\x7d\x58"  # sub, le_u
        return b"".join(
            (
                b"\x01\x01" + (_I64 if size.is_wide else _I32),
                grow + b"\x22" + result + is_refused + b"\x04\x40",
                wanted + b"\x42" + _signed_leb(PAST_MAXIMUM) + fits + b"\x1b",  # select
                b"\x24" + _leb(self._globals[code]) + b"\x0b",
                b"\x20" + result + b"\x0b",
            )
        )


def _count(content: BinaryReader | None) -> int:
    return 0 if content is None else content.copy().u32()


def _extended(content: BinaryReader | None, added: list[bytes]) -> bytes:
    """Return a vector with more elements."""
    if content is None:
        return _leb(len(added)) + b"".join(added)
    rest = content.copy()
    return _leb(rest.u32() + len(added)) + rest.rest() + b"".join(added)


def _section(number: int, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    return [bytes([number]) + _leb(sum(map(len, parts))), *parts]


def _leb(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _signed_leb(number: int) -> bytes:
    """Return an integer as the operand of ``i64.const``, which takes 64 bits of it."""
    number = (number + (1 << 63)) % (1 << 64) - (1 << 63)
    encoded = bytearray()
    while not -0x40 <= number < 0x40:  # noqa: PLR2004 - six bits and a sign
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number & 0x7F])
