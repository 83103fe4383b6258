"""What the daemon knows of a module without ever having parsed it: the compiling child's summary.

The child that compiles a module reads its sections too and reports this. A lying child can only
spoil jobs of its own module: everything here is used to choose an entry and to word messages.
"""

import re
from enum import StrEnum
from typing import Any

import msgspec

__all__ = [
    "UNSUPPORTED",
    "WASI_MODULE",
    "ComponentCall",
    "FunctionType",
    "Import",
    "ModuleKind",
    "ModuleSummary",
    "WitFunction",
    "WitType",
]

#: The name under which modules import WASI preview 1.
WASI_MODULE = "wasi_snapshot_preview1"

#: What the functions begin with by which a program gets at a directory.
_OF_FILES = ("path_", "fd_prestat_")
_WIT_OF_FILES = "wasi:filesystem/"

#: What the names of all imports of WASI begin with, of modules and of components.
_WASI = (WASI_MODULE, "wasi:")

_WIT_COMMAND = re.compile(r"wasi:cli/run@0\.2\.\d+#run")


class ModuleKind(StrEnum):
    """How a module wants to be run."""

    LIBRARY = "library"
    """Exported functions, called one at a time."""
    COMMAND = "command"
    """A WASI command: exports ``_start``."""
    REACTOR = "reactor"
    """A library whose ``_initialize`` must be called first."""
    COMPONENT = "component"
    """A component of the component model."""


class FunctionType(msgspec.Struct, frozen=True):
    """A signature in the words of the wasm text format: ``i32``, ``v128``, ``(ref null func)``."""

    params: tuple[str, ...] = ()
    results: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"({', '.join(self.params)}) -> ({', '.join(self.results)})"


#: The kind of a :class:`WitType` that JSON can't carry; its one name says what it is.
UNSUPPORTED = "unsupported"


class WitType(msgspec.Struct, frozen=True, omit_defaults=True):
    """A type of the component model, in the words of WIT."""

    kind: str
    """``u8``, ``string``, ``list``, ``record``, … or :data:`UNSUPPORTED`."""
    names: tuple[str, ...] = ()
    """Of a record's fields, a variant's or an enum's cases, of flags."""
    types: tuple["WitType | None", ...] = ()
    """Of the elements, fields or payloads, in order; of a result first ``ok``, then ``err``. None
    where a case carries nothing."""

    def __str__(self) -> str:
        if self.kind == UNSUPPORTED:
            return self.names[0]
        if self.kind in {"enum", "flags"}:
            return f"{self.kind} {{ {', '.join(self.names)} }}"
        if self.kind == "record":
            fields = zip(self.names, self.types, strict=True)
            return f"record {{ {', '.join(f'{name}: {form}' for name, form in fields)} }}"
        if self.kind == "variant":
            cases = zip(self.names, self.types, strict=True)
            shown = (name if form is None else f"{name}({form})" for name, form in cases)
            return f"variant {{ {', '.join(shown)} }}"
        if not any(self.types):
            return self.kind
        inner = ["_" if form is None else str(form) for form in self.types]
        if self.kind == "result" and inner[-1] == "_":
            inner.pop()
        return f"{self.kind}<{', '.join(inner)}>"


class WitFunction(msgspec.Struct, frozen=True, omit_defaults=True):
    """The signature of a component's function."""

    params: tuple[tuple[str, WitType], ...] = ()
    result: WitType | None = None
    is_async: bool = False
    """Whether it is lifted asynchronously, which is of WASI 0.3."""

    def __str__(self) -> str:
        params = ", ".join(f"{name}: {form}" for name, form in self.params)
        return f"{'async ' if self.is_async else ''}func({params})" + (
            "" if self.result is None else f" -> {self.result}"
        )


class ComponentCall(msgspec.Struct, frozen=True):
    """What to call of a component: the signature in full, as the child looks up none."""

    function: WitFunction
    args: tuple[Any, ...]
    """Plain values, see :mod:`wasmdrop.protocol.component_values`."""


class Import(msgspec.Struct, frozen=True):
    """Something that the module wants from outside."""

    module: str
    name: str
    kind: str
    """``func``, ``table``, ``memory``, ``global`` or ``tag``; a component imports ``instance`` and
    others besides."""
    type: str = ""
    """The type in text form, for people."""
    provided: bool = True
    """Whether the daemon provides it."""


class ModuleSummary(msgspec.Struct, frozen=True):
    """The outside of one module."""

    kind: ModuleKind
    functions: dict[str, FunctionType] = {}
    """Exported functions by name, in the order of the module."""
    other_exports: dict[str, str] = {}
    """The other exports: name to ``memory``, ``table``, ``global`` or ``tag``."""
    imports: tuple[Import, ...] = ()
    memory_min_bytes: int = 0
    """Sum of the minimum sizes of the memories that the module defines itself; 0 of a component."""

    memory_min_largest_bytes: int = 0
    """The largest of these minimum sizes."""
    memory_count: int = 0
    """How many memories the module defines itself, a component all its modules together."""
    table_min_elements: int = 0
    """Sum of the minimum sizes of the tables that the module defines itself, in elements; 0 of a
    component."""
    table_min_largest: int = 0
    """The largest of these minimum sizes, in elements."""
    table_count: int = 0
    """How many tables the module defines itself."""
    grows_tables: bool = False
    """Whether its code may contain ``table.grow``; never False where it does."""
    tells_refusals: bool = False
    """Whether its machine code tells of tables that were refused growth; see
    :mod:`.sandbox.refusals`."""
    has_gc_heap: bool = False
    """Whether it may allocate structs, arrays or exceptions, which takes a heap of their own."""
    has_start: bool = False
    """Whether code of its own runs as soon as there is an instance."""
    has_shared_memory: bool = False
    """Whether it defines a memory for threads to share."""
    link_error: str = ""
    """Why it can't be linked, what it was built for and what to do; empty if it can be linked."""
    producers: tuple[str, ...] = ()
    """Languages and tools that made it, with their versions, as it says itself."""
    wit_functions: dict[str, WitFunction] = {}
    """A component's exported functions by name; those in an interface by
    ``ns:pkg/interface@1.0.0#name``."""

    @property
    def wants_wasi(self) -> bool:
        """Whether it imports anything of WASI, so that output must be captured."""
        return any(entry.module.startswith(_WASI) for entry in self.imports)

    @property
    def command(self) -> str | None:
        """The function that runs it as a WASI command, if it is one."""
        if self.kind is ModuleKind.COMMAND:
            return "_start"
        runs = (name for name in self.wit_functions if _WIT_COMMAND.fullmatch(name))
        return next(runs, None)

    @property
    def wants_files(self) -> bool:
        """Whether it imports a WASI function of files, so that a directory is of use to it."""
        return any(
            entry.module.startswith(_WIT_OF_FILES)
            or (entry.module == WASI_MODULE and entry.name.startswith(_OF_FILES))
            for entry in self.imports
        )
