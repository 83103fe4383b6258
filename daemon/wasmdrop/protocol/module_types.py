"""What the daemon knows of a module: the summary that a child reports after compiling it.

The daemon never parses modules itself. A compromised child can only affect jobs of its own module:
the summary is used to choose the entry and to word messages.
"""

import re
from enum import StrEnum
from typing import Any

import msgspec

#: The module name of imports of WASI preview 1.
WASI_MODULE = "wasi_snapshot_preview1"

#: Prefixes of the WASI preview 1 functions that open files.
_FILE_FUNCTIONS = ("path_", "fd_prestat_")
_WIT_FILE_PREFIX = "wasi:filesystem/"

#: Prefixes of all WASI imports, of modules and of components.
_WASI_PREFIXES = (WASI_MODULE, "wasi:")

_WIT_COMMAND = re.compile(r"wasi:cli/run@0\.2\.\d+#run")


class ModuleKind(StrEnum):
    """How a module is run."""

    LIBRARY = "library"
    """Exports functions; a job calls one."""
    COMMAND = "command"
    """A WASI command: exports ``_start``."""
    REACTOR = "reactor"
    """A library whose ``_initialize`` must be called first."""
    COMPONENT = "component"
    """A component of the component model."""


class FunctionType(msgspec.Struct, frozen=True):
    """A signature, in types of the WebAssembly text format: ``i32``, ``(ref null func)``."""

    params: tuple[str, ...] = ()
    results: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"({', '.join(self.params)}) -> ({', '.join(self.results)})"


#: The kind of a :class:`WitType` that JSON can't represent; its only name describes it.
UNSUPPORTED = "unsupported"


class WitType(msgspec.Struct, frozen=True, omit_defaults=True):
    """A type of the component model, as in WIT."""

    kind: str
    """``u8``, ``string``, ``list``, ``record``, … or :data:`UNSUPPORTED`."""
    names: tuple[str, ...] = ()
    """Names of a record's fields, of the cases of a variant or an enum, or of flags."""
    types: tuple["WitType | None", ...] = ()
    """Types of the elements, fields or payloads, in order; of a result, ``ok`` and then ``err``.
    None for a case without payload."""

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
    """Whether it is lifted asynchronously, which needs WASI 0.3."""

    def __str__(self) -> str:
        params = ", ".join(f"{name}: {form}" for name, form in self.params)
        return f"{'async ' if self.is_async else ''}func({params})" + (
            "" if self.result is None else f" -> {self.result}"
        )


class ComponentCall(msgspec.Struct, frozen=True):
    """A call of a component's function, with its full signature: the child looks up none."""

    function: WitFunction
    args: tuple[Any, ...]
    """Plain values, see :mod:`wasmdrop.protocol.component_values`."""


class Import(msgspec.Struct, frozen=True):
    """An import of a module."""

    module: str
    name: str
    kind: str
    """``func``, ``table``, ``memory``, ``global`` or ``tag``; in a component also ``instance`` and
    others."""
    type: str = ""
    """The type in text form, for messages."""
    provided: bool = True
    """Whether the daemon provides it."""


class ModuleSummary(msgspec.Struct, frozen=True):
    """The interface and the needs of one module."""

    kind: ModuleKind
    functions: dict[str, FunctionType] = {}
    """Exported functions by name, in the order of the module."""
    other_exports: dict[str, str] = {}
    """The other exports: name to ``memory``, ``table``, ``global`` or ``tag``."""
    imports: tuple[Import, ...] = ()
    memory_min_bytes: int = 0
    """Sum of the minimum sizes of the memories that it defines; 0 for a component."""
    memory_min_largest_bytes: int = 0
    """The largest of these minimum sizes."""
    memory_count: int = 0
    """How many memories it defines; in a component, all of its modules together."""
    table_min_elements: int = 0
    """Sum of the minimum sizes of the tables that it defines, in elements; 0 for a component."""
    table_min_largest: int = 0
    """The largest of these minimum sizes, in elements."""
    table_count: int = 0
    """How many tables it defines."""
    grows_tables: bool = False
    """Whether its code may contain ``table.grow``; never False if it does."""
    tells_refusals: bool = False
    """Whether its machine code reports refused growth of tables, see
    :mod:`wasmdrop.sandbox.guest.growth_refusals`."""
    has_gc_heap: bool = False
    """Whether it may allocate structs, arrays or exceptions, which need a separate heap."""
    has_start: bool = False
    """Whether its code runs during instantiation."""
    has_shared_memory: bool = False
    """Whether it defines a memory that threads share."""
    link_error: str = ""
    """Why it can't be linked, what it was built for, and what to do; empty if it can be."""
    producers: tuple[str, ...] = ()
    """Languages and tools that made it, with versions, by its own account."""
    wit_functions: dict[str, WitFunction] = {}
    """A component's exported functions by name; those in an interface by
    ``ns:pkg/interface@1.0.0#name``."""

    @property
    def wants_wasi(self) -> bool:
        """Whether it imports anything of WASI. Its output is then captured."""
        return any(entry.module.startswith(_WASI_PREFIXES) for entry in self.imports)

    @property
    def command(self) -> str | None:
        """The function that runs it as a WASI command; None if it is not one."""
        if self.kind is ModuleKind.COMMAND:
            return "_start"
        runs = (name for name in self.wit_functions if _WIT_COMMAND.fullmatch(name))
        return next(runs, None)

    @property
    def wants_files(self) -> bool:
        """Whether it imports a WASI function for files. It then gets a directory."""
        return any(
            entry.module.startswith(_WIT_FILE_PREFIX)
            or (entry.module == WASI_MODULE and entry.name.startswith(_FILE_FUNCTIONS))
            for entry in self.imports
        )
