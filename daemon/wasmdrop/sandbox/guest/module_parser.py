"""Reads the outside of a core WebAssembly module: its kind, exports, imports, memories, tables.

Wasmtime's Python interface can't be asked for types: it aborts the process on those of vectors and
most references. So this module reads the sections that describe a module's outside itself, by the
WebAssembly core specification 3.0, chapter "Binary Format", with the continuation types, custom
page sizes and compact imports that wasmtime can be told to accept. All other sections are skipped
by their size.

Assumes that wasmtime has compiled the module, so it repeats no validation that it does not need.
Promises all the same that any bytes end in a summary or a ``RefusedError``, in time and memory
linear in their number, and that a summary is small enough for a report and the daemon's memory.
"""

import re
from array import array
from collections.abc import Callable
from typing import Final, NamedTuple

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.module_types import FunctionType, Import, ModuleKind, ModuleSummary
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.guest.file_type import PREAMBLE_BYTES, refuse_unless_wasm

__all__ = [
    "MAX_NAMES",
    "MAX_NAME_BYTES",
    "MAX_TYPE_CHARACTERS",
    "TABLE_GROW",
    "Outline",
    "Reader",
    "Storage",
    "storage_of_component",
    "summarize",
]

#: Imports and exports together. Not measured: meant to be more than any program to be run has, and
#: few enough for the daemon to keep in memory.
MAX_NAMES: Final = 20_000
#: The names of imports and exports together, as UTF-8.
MAX_NAME_BYTES: Final = 2 * 1024 * 1024
#: The types of imports and exported functions together, in text form. Without this bound, twenty
#: thousand exports of one type with a thousand parameters would make 100 MB of summary out of
#: 200 kB of module.
MAX_TYPE_CHARACTERS: Final = 1024 * 1024

#: Ids of sections in the order in which they must come, each at most once.
_SECTION_ORDER: Final = (1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11)
_CUSTOM_SECTION: Final = 0

#: Sections of a component that hold a core module, or another component.
_CORE_MODULE, _COMPONENT = 1, 4

#: ``table.grow``; the second byte may be the first of a longer encoding of the same number. Bytes
#: that only look like it cost a program a part of its memory, never the daemon its bound.
TABLE_GROW: Final = re.compile(rb"\xfc[\x0f\x8f]")

#: What a table with an initial value begins with, before its type.
_INITIALIZED: Final = b"\x40\0"

_END: Final = 0x0B
#: Instructions of constant expressions, with the sizes of their operands; 0 for an integer.
_CONSTANT_OPERANDS: Final = {
    0x23: (0,),  # global.get
    0x41: (0,),  # i32.const
    0x42: (0,),  # i64.const
    0x43: (4,),  # f32.const
    0x44: (8,),  # f64.const
    **dict.fromkeys((0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E), ()),  # add, sub, mul
    0xD0: (0,),  # ref.null
    0xD2: (0,),  # ref.func
    **dict.fromkeys((0xFB00, 0xFB01, 0xFB06, 0xFB07), (0,)),  # struct.new to array.new_default
    0xFB08: (0, 0),  # array.new_fixed
    **dict.fromkeys((0xFB1A, 0xFB1B, 0xFB1C), ()),  # conversions, ref.i31
    0xFD0C: (16,),  # v128.const
}

#: In place of a kind, after an empty name: imports of one module, and of one type.
_COMPACT, _COMPACT_ONE_TYPE = 0x7F, 0x7E

_EXTERNAL_KINDS: Final = ("func", "table", "memory", "global", "tag")

_NUMBER_TYPES: Final = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128"}
_PACKED_TYPES: Final = (0x78, 0x77)
#: Abstract heap types: the name, and the short form of a nullable reference to it.
_HEAP_TYPES: Final = {
    0x75: ("nocont", "nullcontref"),
    0x74: ("noexn", "nullexnref"),
    0x73: ("nofunc", "nullfuncref"),
    0x72: ("noextern", "nullexternref"),
    0x71: ("none", "nullref"),
    0x70: ("func", "funcref"),
    0x6F: ("extern", "externref"),
    0x6E: ("any", "anyref"),
    0x6D: ("eq", "eqref"),
    0x6C: ("i31", "i31ref"),
    0x6B: ("struct", "structref"),
    0x6A: ("array", "arrayref"),
    0x69: ("exn", "exnref"),
    0x68: ("cont", "contref"),
}
_REF, _REF_NULL = 0x64, 0x63
_FUNC, _STRUCT, _ARRAY, _CONT = 0x60, 0x5F, 0x5E, 0x5D
_SUB, _SUB_FINAL, _REC = 0x50, 0x4F, 0x4E

_HAS_MAXIMUM, _SHARED, _INDEX_64, _HAS_PAGE_SIZE = 1, 2, 4, 8
_TABLE_FLAGS: Final = _HAS_MAXIMUM | _INDEX_64
_MEMORY_FLAGS: Final = _HAS_MAXIMUM | _SHARED | _INDEX_64 | _HAS_PAGE_SIZE
#: Two to this power is the size of a page, in bytes; with custom page sizes it may also be one.
_PAGE_POWER: Final = 16


def summarize(module: bytes) -> ModuleSummary:
    """Read the outside of a core module.

    Raises ``RefusedError``: with ``INVALID_MODULE`` and the offset in bytes where ``module`` is
    malformed, with ``COMPILE_LIMIT`` where the summary would be past ``MAX_NAMES``,
    ``MAX_NAME_BYTES`` or ``MAX_TYPE_CHARACTERS``.
    """
    if refuse_unless_wasm(module[:PREAMBLE_BYTES]) == "component":
        raise _malformed("expected a core module, got a component", 4)
    outline = Outline()
    parts = {
        1: outline.read_types,
        2: outline.read_imports,
        3: outline.read_functions,
        4: outline.storage.read_tables,
        5: outline.storage.read_memories,
        10: outline.storage.read_code,
        13: outline.storage.read_tags,
        7: outline.read_exports,
        8: outline.read_start,
    }
    reader = Reader(module, PREAMBLE_BYTES, len(module))
    to_come = list(_SECTION_ORDER)
    while reader.position < reader.end:
        start = reader.position
        number = reader.byte()
        section = reader.part(reader.u32())
        if number == _CUSTOM_SECTION:
            continue
        if number not in to_come:
            raise _malformed(f"section {number} is unknown, comes twice or too late", start)
        del to_come[: to_come.index(number) + 1]
        if number in parts:
            parts[number](section)
            if section.position < section.end:
                raise _malformed(f"section {number} goes on past its content", section.position)
    return outline.summary()


def _malformed(problem: str, offset: int) -> RefusedError:
    return RefusedError(Code.INVALID_MODULE, f"malformed module: {problem} (at offset {offset:#x})")


class Size(NamedTuple):
    """The size of a table or memory, as it is declared."""

    minimum: int
    """In elements of a table, in bytes of a memory."""
    maximum: int | None
    """In elements of a table, in pages of a memory; None if none is declared."""
    is_wide: bool
    """Whether indices have 64 bits."""
    page_power: int
    """Two to this power is the size of a page in bytes; 0 for a table."""
    text: str


class Table(NamedTuple):
    """A table that a module defines."""

    size: Size
    element: bytes
    """The type of its elements, as the module has it."""


class Reader:
    """Reads the grammar's smallest parts, from ``position`` and never past ``end``."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self.data = data
        self.position = position
        self.end = end

    def byte(self) -> int:
        """Read one byte."""
        if self.position >= self.end:
            raise _malformed("it ends in the middle of something", self.position)
        self.position += 1
        return self.data[self.position - 1]

    def part(self, size: int) -> "Reader":
        """Return a reader of the next ``size`` bytes, and go past them."""
        start = self.position
        if size > self.end - start:
            raise _malformed(f"{size} bytes announced, {self.end - start} left", start)
        self.position += size
        return Reader(self.data, start, self.position)

    def copy(self) -> "Reader":
        """Return another reader of what is left."""
        return Reader(self.data, self.position, self.end)

    def rest(self) -> bytes:
        """Return what is left, without going past it."""
        return self.data[self.position : self.end]

    def unsigned(self, bits: int) -> int:
        """Read LEB128: at most as many bytes as ``bits`` need, with no bit beyond them."""
        start = self.position
        number = shift = 0
        while True:
            byte = self.byte()
            # Of the last byte allowed, what is left over includes the bit that would continue it.
            if shift + 7 > bits and byte >> (bits - shift):
                raise _malformed(f"expected an unsigned integer of {bits} bits", start)
            number |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return number
            shift += 7

    def u32(self) -> int:
        """Read an unsigned integer of 32 bits."""
        return self.unsigned(32)

    def count(self) -> int:
        """Read the length of a vector, each of whose elements takes a byte or more."""
        start = self.position
        count = self.u32()
        if count > self.end - self.position:
            left = self.end - self.position
            raise _malformed(f"{count} elements announced, {left} bytes left", start)
        return count

    def name(self) -> str:
        """Read a name."""
        content = self.part(self.u32())
        try:
            return str(self.data[content.position : content.end], "utf-8")
        except UnicodeDecodeError as error:
            offset = content.position + error.start
            raise _malformed("expected a name in UTF-8", offset) from None

    def mutability(self) -> bool:
        """Read whether something can be changed."""
        start = self.position
        byte = self.byte()
        if byte > 1:
            raise _malformed(f"expected a mutability of 0 or 1, got {byte}", start)
        return byte == 1

    def type_index(self) -> int:
        """Read a type index where the grammar has a signed integer of 33 bits."""
        start = self.position
        index = self.u32()
        if self.data[self.position - 1] & 0x40:
            raise _malformed("expected a heap type", start)
        return index

    def reference(self, *, nullable: bool) -> str:
        """Read the heap type of a reference; return the reference as text, in its short form."""
        if self.position < self.end and self.data[self.position] in _HEAP_TYPES:
            heap, short = _HEAP_TYPES[self.byte()]
            return short if nullable else f"(ref {heap})"
        return f"(ref {'null ' if nullable else ''}{self.type_index()})"

    def value_type(self) -> str:
        """Read a value type; return it as text."""
        start = self.position
        byte = self.byte()
        if byte in _NUMBER_TYPES:
            return _NUMBER_TYPES[byte]
        if byte in _HEAP_TYPES:
            return _HEAP_TYPES[byte][1]
        if byte in (_REF, _REF_NULL):
            return self.reference(nullable=byte == _REF_NULL)
        raise _malformed(f"expected a value type, got {byte:#04x}", start)

    def value_types(self) -> tuple[str, ...]:
        """Read a vector of value types."""
        return tuple([self.value_type() for _ in range(self.count())])

    def skip_field(self) -> None:
        """Go past a field of a struct or the element type of an array."""
        if self.position < self.end and self.data[self.position] in _PACKED_TYPES:
            self.position += 1
        else:
            self.value_type()
        self.mutability()

    def skip_constant(self) -> None:
        """Go past a constant expression, with its end."""
        while True:
            start = self.position
            code = self.byte()
            if code == 0xFB:  # noqa: PLR2004 - instructions of references
                code = 0xFB00 | self.u32()
            elif code == 0xFD:  # noqa: PLR2004 - instructions of vectors
                code = 0xFD00 | self.u32()
            if code == _END:
                return
            if code not in _CONSTANT_OPERANDS:
                raise _malformed("expected a constant expression", start)
            for size in _CONSTANT_OPERANDS[code]:
                if size:
                    self.part(size)
                else:
                    self.skip_integer()

    def skip_integer(self) -> None:
        """Go past LEB128 of either sign, of at most 64 bits."""
        for _ in range(10):
            if self.byte() < 0x80:  # noqa: PLR2004 - no other byte follows
                return
        raise _malformed("expected an integer of at most 64 bits", self.position)

    def limits(self, allowed_flags: int) -> Size:
        """Read the limits of a table or a memory."""
        start = self.position
        flags = self.byte()
        if flags & ~allowed_flags:
            raise _malformed(f"expected flags of limits, got {flags:#04x}", start)
        bits = 64 if flags & _INDEX_64 else 32
        minimum = self.unsigned(bits)
        words = ["i64"] if flags & _INDEX_64 else []
        words.append(str(minimum))
        maximum = None
        if flags & _HAS_MAXIMUM:
            maximum = self.unsigned(bits)
            words.append(str(maximum))
        if flags & _SHARED:
            words.append("shared")
        # A table's elements have no pages.
        power = _PAGE_POWER if allowed_flags & _HAS_PAGE_SIZE else 0
        if flags & _HAS_PAGE_SIZE:
            start = self.position
            power = self.u32()
            if power not in (0, _PAGE_POWER):
                raise _malformed(f"expected pages of 2^0 or 2^16 bytes, got 2^{power}", start)
            words.append(f"(pagesize {1 << power})")
        return Size(minimum << power, maximum, bits > 32, power, " ".join(words))  # noqa: PLR2004


class Storage:
    """What of a module can grow: memories, tables, and the heap of structs and exceptions."""

    def __init__(self) -> None:
        self.memories: list[Size] = []
        self.tables: list[Table] = []
        self.grows_tables = False
        self.has_gc_heap = False
        self.has_shared_memory = False

    def read_tables(self, reader: Reader) -> None:
        """Read a table section."""
        for _ in range(reader.count()):
            is_initialized = reader.data.startswith(_INITIALIZED, reader.position)
            if is_initialized:
                reader.part(len(_INITIALIZED))
            start = reader.position
            reader.value_type()
            element = reader.data[start : reader.position]
            self.tables.append(Table(reader.limits(_TABLE_FLAGS), element))
            if is_initialized:
                reader.skip_constant()

    def read_memories(self, reader: Reader) -> None:
        """Read a memory section."""
        for _ in range(reader.count()):
            limits = reader.limits(_MEMORY_FLAGS)
            self.memories.append(limits)
            self.has_shared_memory = self.has_shared_memory or "shared" in limits.text

    def read_code(self, reader: Reader) -> None:
        """Look through a code section, without reading it, for what grows tables."""
        found = TABLE_GROW.search(reader.data, reader.position, reader.end)
        self.grows_tables = self.grows_tables or found is not None
        reader.position = reader.end

    def read_types(self, reader: Reader) -> list[FunctionType | None]:
        """Return types by index; None for one of something else than a function."""
        types: list[FunctionType | None] = []
        for _ in range(reader.count()):
            group = 1
            if reader.position < reader.end and reader.data[reader.position] == _REC:
                reader.byte()
                group = reader.count()
            types.extend(_sub_type(reader) for _ in range(group))
        self.has_gc_heap = self.has_gc_heap or None in types
        return types

    def read_tags(self, reader: Reader) -> None:
        """Note that there is a tag section, without reading it."""
        self.has_gc_heap = True
        reader.position = reader.end


def storage_of_component(component: bytes) -> Storage:
    """Read what the core modules in a component define, each once, at any depth.

    Raises ``RefusedError`` with ``INVALID_MODULE`` where ``component`` is malformed.
    """
    storage = Storage()
    parts: dict[int, Callable[[Reader], object]] = {
        1: storage.read_types,
        4: storage.read_tables,
        5: storage.read_memories,
        10: storage.read_code,
        13: storage.read_tags,
    }
    to_read = [(Reader(component, PREAMBLE_BYTES, len(component)), True)]
    while to_read:
        reader, is_component = to_read.pop()
        while reader.position < reader.end:
            number = reader.byte()
            section = reader.part(reader.u32())
            if not is_component:
                if number in parts:
                    parts[number](section)
            elif number in (_CORE_MODULE, _COMPONENT):
                section.part(PREAMBLE_BYTES)
                to_read.append((section, number == _COMPONENT))
    return storage


class Outline:
    """What was read of one module so far. Its methods are called in the order of the sections."""

    def __init__(self) -> None:
        self.types: list[FunctionType | None] = []
        """By index; None for a type of something else than a function."""
        self.type_indices = array("I")
        """The type index of each function, the imported ones first."""
        self.exported: dict[str, FunctionType] = {}
        self.other_exports: dict[str, str] = {}
        self.imports: list[Import] = []
        self.storage = Storage()
        self.has_start = False
        self.names = 0
        self.name_bytes = 0
        self.type_characters = 0

    def summary(self) -> ModuleSummary:
        """Put together what was read."""
        kind = ModuleKind.LIBRARY
        if self.exported.get("_start") == FunctionType():
            kind = ModuleKind.COMMAND
        elif "_initialize" in self.exported:
            kind = ModuleKind.REACTOR
        return ModuleSummary(
            kind,
            self.exported,
            self.other_exports,
            tuple(self.imports),
            sum(memories := [memory.minimum for memory in self.storage.memories]),
            max(memories, default=0),
            len(memories),
            sum(tables := [table.size.minimum for table in self.storage.tables]),
            max(tables, default=0),
            len(tables),
            grows_tables=self.storage.grows_tables,
            has_gc_heap=self.storage.has_gc_heap,
            has_shared_memory=self.storage.has_shared_memory,
            has_start=self.has_start,
        )

    def read_types(self, reader: Reader) -> None:
        """Read a type section."""
        self.types = self.storage.read_types(reader)

    def read_imports(self, reader: Reader) -> None:
        """Read an import section."""
        count = reader.count()
        self._count_names(count, "imports")
        for _ in range(count):
            module, name = self._name(reader), self._name(reader)
            form = reader.byte()
            if not name and form in (_COMPACT, _COMPACT_ONE_TYPE):
                self._read_compact_imports(reader, module, of_one_type=form == _COMPACT_ONE_TYPE)
            else:
                reader.position -= 1
                self._add_import(module, name, *self._import_form(reader))

    def _read_compact_imports(self, reader: Reader, module: str, *, of_one_type: bool) -> None:
        """Read imports that share the name of their module, and maybe their type."""
        form = self._import_form(reader) if of_one_type else None
        count = reader.count()
        self._count_names(count, "imports")
        for _ in range(count):
            name = self._name(reader)
            self._add_import(module, name, *(form or self._import_form(reader)))

    def read_functions(self, reader: Reader) -> None:
        """Read a function section."""
        for _ in range(reader.count()):
            self.type_indices.append(reader.u32())

    def read_start(self, reader: Reader) -> None:
        """Note that there is a start function."""
        reader.u32()
        self.has_start = True

    def read_exports(self, reader: Reader) -> None:
        """Read an export section."""
        count = reader.count()
        self._count_names(count, "imports and exports")
        for _ in range(count):
            start = reader.position
            name = self._name(reader)
            if name in self.exported or name in self.other_exports:
                raise _malformed("two exports have the same name", start)
            kind = _external_kind(reader)
            start = reader.position
            index = reader.u32()
            if kind != "func":
                self.other_exports[name] = kind
                continue
            if index >= len(self.type_indices):
                raise _malformed(f"there is no function {index}", start)
            signature = self._signature(self.type_indices[index], start)
            self._count_type(str(signature))
            self.exported[name] = signature

    def _add_import(self, module: str, name: str, kind: str, text: str, index: int) -> None:
        if kind == "func":
            self.type_indices.append(index)
        self._count_type(text)
        self.imports.append(Import(module, name, kind, text))

    def _import_form(self, reader: Reader) -> tuple[str, str, int]:
        """Read what is imported; return its kind, its type as text, and of a function its index."""
        kind = _external_kind(reader)
        start = reader.position
        if kind == "func":
            index = reader.u32()
            return kind, str(self._signature(index, start)), index
        if kind == "table":
            element = reader.value_type()
            return kind, f"{reader.limits(_TABLE_FLAGS).text} {element}", 0
        if kind == "memory":
            return kind, reader.limits(_MEMORY_FLAGS).text, 0
        if kind == "global":
            content = reader.value_type()
            return kind, f"(mut {content})" if reader.mutability() else content, 0
        if attribute := reader.byte():
            raise _malformed(f"expected a tag attribute of 0, got {attribute}", start)
        return kind, str(self._signature(reader.u32(), start + 1)), 0

    def _signature(self, index: int, offset: int) -> FunctionType:
        signature = self.types[index] if index < len(self.types) else None
        if signature is None:
            raise _malformed(f"there is no function type {index}", offset)
        return signature

    def _name(self, reader: Reader) -> str:
        name = reader.name()
        self.name_bytes += len(name.encode())
        _refuse_past(MAX_NAME_BYTES, self.name_bytes, "bytes of names")
        return name

    def _count_names(self, count: int, what: str) -> None:
        self.names += count
        _refuse_past(MAX_NAMES, self.names, what)

    def _count_type(self, text: str) -> None:
        self.type_characters += len(text)
        _refuse_past(MAX_TYPE_CHARACTERS, self.type_characters, "characters of types")


def _refuse_past(bound: int, number: int, what: str) -> None:
    if number > bound:
        raise RefusedError(
            Code.COMPILE_LIMIT,
            f"the module has at least {number} {what}; at most {bound} are accepted",
        )


def _external_kind(reader: Reader) -> str:
    start = reader.position
    byte = reader.byte()
    if byte >= len(_EXTERNAL_KINDS):
        raise _malformed(f"expected a kind of import or export, got {byte:#04x}", start)
    return _EXTERNAL_KINDS[byte]


def _sub_type(reader: Reader) -> FunctionType | None:
    """Read one type definition; return None for one of something else than a function."""
    start = reader.position
    form = reader.byte()
    if form in (_SUB, _SUB_FINAL):
        for _ in range(reader.count()):
            reader.u32()
        start = reader.position
        form = reader.byte()
    if form == _FUNC:
        return FunctionType(reader.value_types(), reader.value_types())
    if form == _STRUCT:
        for _ in range(reader.count()):
            reader.skip_field()
    elif form == _ARRAY:
        reader.skip_field()
    elif form == _CONT:
        reader.type_index()
    else:
        raise _malformed(
            f"expected a function, struct, array or continuation type, got {form:#04x}", start
        )
    return None
