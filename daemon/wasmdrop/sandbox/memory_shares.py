"""Divide a job's memory limit among the memories and tables of its module.

wasmtime limits each memory and each table, but not all of them together. So the limit is divided
before the guest runs, according to the definitions in the module. The heap of structs and
exceptions counts as a memory, because wasmtime implements it as one.
"""

from typing import Final

import msgspec

from wasmdrop.protocol.limits import MEBIBYTE, Limits
from wasmdrop.protocol.module_types import ModuleKind, ModuleSummary

#: Size of a table element in wasmtime; elements of some types take half of it.
_ELEMENT_BYTES: Final = 8

#: Tables up to this size together are not charged: the tables of most programs take a few
#: kilobytes, and should not cost them a page of memory.
TABLES_FREE_BYTES: Final = MEBIBYTE

#: If a module has memories and also grows its tables, the tables get one part in this many.
_TABLES_PART: Final = 8


class MemoryShares(msgspec.Struct, frozen=True):
    """Limits of each memory, in bytes, and of each table, in elements."""

    memory_bytes: int
    """Limit of a memory that grows."""
    table_elements: int
    """Limit of a table that grows."""
    memory_bytes_at_first: int
    """Limit of a memory's initial size, which may be larger than its share."""
    table_elements_at_first: int
    """Limit of a table's initial size."""


def initial_bytes(summary: ModuleSummary) -> int:
    """Return the initial size of the module's memories and tables, in bytes."""
    return summary.memory_min_bytes + _charged(summary.table_min_elements * _ELEMENT_BYTES)


def memory_shares_of(summary: ModuleSummary, limits: Limits) -> MemoryShares:
    """Divide the memory limit of a job.

    The memories and tables of a core module keep to the limit together if :func:`initial_bytes`
    does. A component may have several instances of one module and exceed the limit; the limit of
    its process then holds.
    """
    limit_bytes = limits.memory_bytes
    memories = summary.memory_count + summary.has_gc_heap
    tables_bytes = summary.table_min_elements * _ELEMENT_BYTES
    if summary.grows_tables:
        part_bytes = limit_bytes // (_TABLES_PART if memories else 1)
        left_bytes = limit_bytes - summary.memory_min_bytes
        tables_bytes = max(tables_bytes, min(part_bytes, left_bytes))
    table_elements = _share(
        tables_bytes // _ELEMENT_BYTES,
        # wasmtime copies a table to grow it, and both copies exist for a moment.
        summary.table_count + summary.grows_tables,
        summary.table_min_elements,
        summary.table_min_largest,
    )
    memory_bytes = _share(
        max(0, limit_bytes - _charged(tables_bytes)),
        memories,
        summary.memory_min_bytes,
        summary.memory_min_largest_bytes,
    )
    if summary.kind is ModuleKind.COMPONENT:
        # Only the number of its memories is known, not their sizes.
        return MemoryShares(
            memory_bytes, table_elements, limit_bytes, limit_bytes // _ELEMENT_BYTES
        )
    return MemoryShares(
        memory_bytes,
        table_elements,
        max(memory_bytes, summary.memory_min_largest_bytes),
        max(table_elements, summary.table_min_largest),
    )


def _charged(tables_bytes: int) -> int:
    return tables_bytes if tables_bytes > TABLES_FREE_BYTES else 0


def _share(total: int, count: int, initial: int, largest: int) -> int:
    """Return the limit of each of ``count`` parts, so that all of them keep to ``total``.

    Their initial sizes add up to ``initial``; the largest of these is ``largest``.
    """
    equal = total // max(count, 1)
    if largest <= equal:
        return equal
    # A part keeps its initial size if that is larger; the rest is divided equally.
    return max(0, total - initial) // max(count, 1)
