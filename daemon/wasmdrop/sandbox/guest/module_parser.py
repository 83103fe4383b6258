"""Parse the interface of a core WebAssembly module: kind, exports, imports, memories, tables.

wasmtime's Python API can't be used for this: it aborts the process on vector types and most
reference types. The parser follows the WebAssembly core specification 3.0, chapter "Binary Format",
plus the proposals for stack switching (types only), custom page sizes and compact imports. It skips
all other sections.

Assumes that wasmtime has compiled the module, and does not repeat its validation. Guarantees for
any input that it ends in a summary or a ``RefusedError``, in linear time and memory, and that a
summary fits in a report and in the daemon's memory.
"""

import re
from array import array
from collections.abc import Callable
from typing import Final, NamedTuple

from wasmdrop.protocol.module_types import FunctionType, Import, ModuleKind, ModuleSummary
from wasmdrop.sandbox.guest.binary_reader import (
    MEMORY_FLAGS,
    TABLE_FLAGS,
    BinaryReader,
    SizeLimits,
    malformed,
)
from wasmdrop.sandbox.guest.file_type import PREAMBLE_BYTES, refuse_unless_wasm
from wasmdrop.sandbox.guest.summary_limits import SummaryLimits

#: Section ids in their required order; each section occurs at most once.
_SECTION_ORDER: Final = (1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11)
_CUSTOM_SECTION: Final = 0

#: Sections of a component that contain a core module or another component.
_CORE_MODULE, _COMPONENT = 1, 4

#: ``table.grow``; the second byte may begin a longer encoding of the same number. A false match
#: only gives the program a smaller share of memory.
_TABLE_GROW: Final = re.compile(rb"\xfc[\x0f\x8f]")

#: Prefix of a table that has an initial value.
_INITIALIZED: Final = b"\x40\0"

#: Compact imports have one of these in place of a kind, after an empty name: several imports from
#: one module, and several of one type.
_COMPACT, _COMPACT_ONE_TYPE = 0x7F, 0x7E

_EXTERNAL_KINDS: Final = ("func", "table", "memory", "global", "tag")

_FUNC, _STRUCT, _ARRAY, _CONT = 0x60, 0x5F, 0x5E, 0x5D
_SUB, _SUB_FINAL, _REC = 0x50, 0x4F, 0x4E


def parse_module(module: bytes) -> ModuleSummary:
    """Return the summary of a core module.

    Raises ``RefusedError``: ``INVALID_MODULE`` with the byte offset if ``module`` is malformed,
    ``COMPILE_LIMIT`` if the summary exceeds its limits.
    """
    if refuse_unless_wasm(module[:PREAMBLE_BYTES]) == "component":
        raise malformed("expected a core module, got a component", 4)
    parser = ModuleParser()
    parts = {
        1: parser.read_types,
        2: parser.read_imports,
        3: parser.read_functions,
        4: parser.declared_memory.read_tables,
        5: parser.declared_memory.read_memories,
        10: parser.declared_memory.read_code,
        13: parser.declared_memory.read_tags,
        7: parser.read_exports,
        8: parser.read_start,
    }
    reader = BinaryReader(module, PREAMBLE_BYTES, len(module))
    to_come = list(_SECTION_ORDER)
    for start, number, section in reader.sections():
        if number == _CUSTOM_SECTION:
            continue
        if number not in to_come:
            raise malformed(f"section {number} is unknown, duplicate or out of order", start)
        del to_come[: to_come.index(number) + 1]
        if number in parts:
            parts[number](section)
            if section.position < section.end:
                raise malformed(f"section {number} is longer than its content", section.position)
    return parser.summary()


class TableType(NamedTuple):
    """The type of a table that a module defines."""

    size: SizeLimits
    element: bytes
    """The encoded type of its elements."""


class DeclaredMemory:
    """Declared memories, tables, and whether there is a heap of structs and exceptions."""

    def __init__(self) -> None:
        self.memories: list[SizeLimits] = []
        self.tables: list[TableType] = []
        self.grows_tables = False
        self.has_gc_heap = False
        self.has_shared_memory = False

    def read_tables(self, reader: BinaryReader) -> None:
        """Read a table section."""
        for _ in range(reader.count()):
            is_initialized = reader.data.startswith(_INITIALIZED, reader.position)
            if is_initialized:
                reader.part(len(_INITIALIZED))
            start = reader.position
            reader.value_type()
            element = reader.data[start : reader.position]
            self.tables.append(TableType(reader.limits(TABLE_FLAGS), element))
            if is_initialized:
                reader.skip_constant()

    def read_memories(self, reader: BinaryReader) -> None:
        """Read a memory section."""
        for _ in range(reader.count()):
            limits = reader.limits(MEMORY_FLAGS)
            self.memories.append(limits)
            self.has_shared_memory = self.has_shared_memory or "shared" in limits.text

    def read_code(self, reader: BinaryReader) -> None:
        """Search a code section for instructions that grow tables, without parsing it."""
        found = _TABLE_GROW.search(reader.data, reader.position, reader.end)
        self.grows_tables = self.grows_tables or found is not None
        reader.position = reader.end

    def read_types(self, reader: BinaryReader) -> list[FunctionType | None]:
        """Return types by index; None for a type that is not a function type."""
        types: list[FunctionType | None] = []
        for _ in range(reader.count()):
            group = 1
            if reader.position < reader.end and reader.data[reader.position] == _REC:
                reader.byte()
                group = reader.count()
            types.extend(_sub_type(reader) for _ in range(group))
        self.has_gc_heap = self.has_gc_heap or None in types
        return types

    def read_tags(self, reader: BinaryReader) -> None:
        """Record a tag section, without parsing it."""
        self.has_gc_heap = True
        reader.position = reader.end


def parse_component_memory(component: bytes) -> DeclaredMemory:
    """Return the declarations of all core modules in a component, at any depth, each counted once.

    Raises ``RefusedError`` with ``INVALID_MODULE`` if ``component`` is malformed.
    """
    declared_memory = DeclaredMemory()
    parts: dict[int, Callable[[BinaryReader], object]] = {
        1: declared_memory.read_types,
        4: declared_memory.read_tables,
        5: declared_memory.read_memories,
        10: declared_memory.read_code,
        13: declared_memory.read_tags,
    }
    to_read = [(BinaryReader(component, PREAMBLE_BYTES, len(component)), True)]
    while to_read:
        reader, is_component = to_read.pop()
        for _start, number, section in reader.sections():
            if not is_component:
                if number in parts:
                    parts[number](section)
            elif number in (_CORE_MODULE, _COMPONENT):
                section.part(PREAMBLE_BYTES)
                to_read.append((section, number == _COMPONENT))
    return declared_memory


class ModuleParser:
    """Collects the interface of one module. The methods are called in the order of the sections."""

    def __init__(self) -> None:
        self.types: list[FunctionType | None] = []
        """By index; None for a type that is not a function type."""
        self.type_indices = array("I")
        """The type index of each function, imported functions first."""
        self.exported: dict[str, FunctionType] = {}
        self.other_exports: dict[str, str] = {}
        self.imports: list[Import] = []
        self.declared_memory = DeclaredMemory()
        self.has_start = False
        self._limits = SummaryLimits()

    def summary(self) -> ModuleSummary:
        """Return the collected summary."""
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
            sum(memories := [memory.minimum for memory in self.declared_memory.memories]),
            max(memories, default=0),
            len(memories),
            sum(tables := [table.size.minimum for table in self.declared_memory.tables]),
            max(tables, default=0),
            len(tables),
            grows_tables=self.declared_memory.grows_tables,
            has_gc_heap=self.declared_memory.has_gc_heap,
            has_shared_memory=self.declared_memory.has_shared_memory,
            has_start=self.has_start,
        )

    def read_types(self, reader: BinaryReader) -> None:
        """Read a type section."""
        self.types = self.declared_memory.read_types(reader)

    def read_imports(self, reader: BinaryReader) -> None:
        """Read an import section."""
        count = reader.count()
        self._limits.count_names(count, "imports")
        for _ in range(count):
            module, name = self._name(reader), self._name(reader)
            form = reader.byte()
            if not name and form in (_COMPACT, _COMPACT_ONE_TYPE):
                self._read_compact_imports(reader, module, of_one_type=form == _COMPACT_ONE_TYPE)
            else:
                reader.position -= 1
                self._add_import(module, name, *self._import_form(reader))

    def _read_compact_imports(
        self, reader: BinaryReader, module: str, *, of_one_type: bool
    ) -> None:
        """Read imports that share the name of their module, and maybe their type."""
        form = self._import_form(reader) if of_one_type else None
        count = reader.count()
        self._limits.count_names(count, "imports")
        for _ in range(count):
            name = self._name(reader)
            self._add_import(module, name, *(form or self._import_form(reader)))

    def read_functions(self, reader: BinaryReader) -> None:
        """Read a function section."""
        for _ in range(reader.count()):
            self.type_indices.append(reader.u32())

    def read_start(self, reader: BinaryReader) -> None:
        """Record the start function."""
        reader.u32()
        self.has_start = True

    def read_exports(self, reader: BinaryReader) -> None:
        """Read an export section."""
        count = reader.count()
        self._limits.count_names(count, "imports and exports")
        for _ in range(count):
            start = reader.position
            name = self._name(reader)
            if name in self.exported or name in self.other_exports:
                raise malformed("two exports have the same name", start)
            kind = _external_kind(reader)
            start = reader.position
            index = reader.u32()
            if kind != "func":
                self.other_exports[name] = kind
                continue
            if index >= len(self.type_indices):
                raise malformed(f"there is no function {index}", start)
            signature = self._signature(self.type_indices[index], start)
            self._limits.count_type(str(signature))
            self.exported[name] = signature

    def _add_import(self, module: str, name: str, kind: str, text: str, index: int) -> None:
        if kind == "func":
            self.type_indices.append(index)
        self._limits.count_type(text)
        self.imports.append(Import(module, name, kind, text))

    def _import_form(self, reader: BinaryReader) -> tuple[str, str, int]:
        """Read an import's kind and type; return both, and the type index of a function."""
        kind = _external_kind(reader)
        start = reader.position
        if kind == "func":
            index = reader.u32()
            return kind, str(self._signature(index, start)), index
        if kind == "table":
            element = reader.value_type()
            return kind, f"{reader.limits(TABLE_FLAGS).text} {element}", 0
        if kind == "memory":
            return kind, reader.limits(MEMORY_FLAGS).text, 0
        if kind == "global":
            content = reader.value_type()
            return kind, f"(mut {content})" if reader.mutability() else content, 0
        if attribute := reader.byte():
            raise malformed(f"expected a tag attribute of 0, got {attribute}", start)
        return kind, str(self._signature(reader.u32(), start + 1)), 0

    def _signature(self, index: int, offset: int) -> FunctionType:
        signature = self.types[index] if index < len(self.types) else None
        if signature is None:
            raise malformed(f"there is no function type {index}", offset)
        return signature

    def _name(self, reader: BinaryReader) -> str:
        name = reader.name()
        self._limits.count_name(name)
        return name


def _external_kind(reader: BinaryReader) -> str:
    start = reader.position
    byte = reader.byte()
    if byte >= len(_EXTERNAL_KINDS):
        raise malformed(f"expected a kind of import or export, got {byte:#04x}", start)
    return _EXTERNAL_KINDS[byte]


def _sub_type(reader: BinaryReader) -> FunctionType | None:
    """Read one type definition; return None if it is not a function type."""
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
        raise malformed(
            f"expected a function, struct, array or continuation type, got {form:#04x}", start
        )
    return None
