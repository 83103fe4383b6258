"""What the daemon knows of a module without ever having parsed it: the compiling child's summary.

The child that compiles a module reads its sections too and reports this. A lying child can only
spoil jobs of its own module: everything here is used to choose an entry and to word messages.
"""

from enum import StrEnum

import msgspec

__all__ = ["WASI_MODULE", "FunctionType", "Import", "ModuleKind", "ModuleSummary"]

#: The name under which modules import WASI preview 1.
WASI_MODULE = "wasi_snapshot_preview1"

#: What the functions begin with by which a program gets at a directory.
_OF_FILES = ("path_", "fd_prestat_")


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


class Import(msgspec.Struct, frozen=True):
    """Something that the module wants from outside."""

    module: str
    name: str
    kind: str
    """``func``, ``table``, ``memory``, ``global`` or ``tag``."""
    type: str = ""
    """The type in text form, for people."""


class ModuleSummary(msgspec.Struct, frozen=True):
    """The outside of one module."""

    kind: ModuleKind
    functions: dict[str, FunctionType] = {}
    """Exported functions by name, in the order of the module."""
    other_exports: dict[str, str] = {}
    """The other exports: name to ``memory``, ``table``, ``global`` or ``tag``."""
    imports: tuple[Import, ...] = ()
    memory_min_bytes: int = 0
    """Sum of the minimum sizes of the memories that the module defines itself."""

    memory_min_largest_bytes: int = 0
    """The largest of these minimum sizes."""
    memory_count: int = 0
    """How many memories the module defines itself."""

    @property
    def wants_wasi(self) -> bool:
        """Whether it imports any WASI preview 1 function, so that output must be captured."""
        return any(entry.module == WASI_MODULE for entry in self.imports)

    @property
    def wants_files(self) -> bool:
        """Whether it imports a WASI function of files, so that a directory is of use to it."""
        return any(
            entry.module == WASI_MODULE and entry.name.startswith(_OF_FILES)
            for entry in self.imports
        )
