"""Shares: how much each memory and each table of a guest may take, so that all keep to one limit.

wasmtime knows a bound of each memory and of each table, and none of all together. So the limit is
dealt out before the guest runs, by what the module defines. The heap of structs and exceptions
counts as a memory: wasmtime makes it one.
"""

from typing import Final

import msgspec

from wasmdrop.protocol.limits import MEBIBYTE, Limits
from wasmdrop.protocol.module_types import ModuleKind, ModuleSummary

__all__ = ["TABLES_FREE_BYTES", "Shares", "least_bytes", "shares_of"]

#: What wasmtime takes for an element of a table, in bytes; of some types half of it.
_ELEMENT_BYTES: Final = 8

#: Tables up to this size together come out of the process's own room. Those of most programs take
#: some kilobytes, for which none should lose a page of its memory.
TABLES_FREE_BYTES: Final = MEBIBYTE

#: Of a module that has memories, and tables that it grows, the tables get one part in so many.
_TABLES_PART: Final = 8


class Shares(msgspec.Struct, frozen=True):
    """Bounds of one memory in bytes, and of one table in elements."""

    memory_bytes: int
    """What each memory may grow to."""
    table_elements: int
    """What each table may grow to."""
    memory_bytes_at_first: int
    """What each memory may have from the start: one that asks for more than its share has that."""
    table_elements_at_first: int
    """What each table may have from the start."""


def least_bytes(summary: ModuleSummary) -> int:
    """Return what the module's memories and tables take from the start, in bytes."""
    return summary.memory_min_bytes + _charged(summary.table_min_elements * _ELEMENT_BYTES)


def shares_of(summary: ModuleSummary, limits: Limits) -> Shares:
    """Deal out the memory that a job may have.

    With these bounds, in order, memories and tables together take no more, as long as
    :func:`least_bytes` is no more. Only a component may, which can have several instances of one
    module: there the process's own limit is what holds.
    """
    limit_bytes = limits.memory_bytes
    memories = summary.memory_count + summary.has_gc_heap
    tables_bytes = summary.table_min_elements * _ELEMENT_BYTES
    if summary.grows_tables:
        part_bytes = limit_bytes // (_TABLES_PART if memories else 1)
        left_bytes = limit_bytes - summary.memory_min_bytes
        tables_bytes = max(tables_bytes, min(part_bytes, left_bytes))
    table_elements = _each(
        tables_bytes // _ELEMENT_BYTES,
        # wasmtime copies a table to make it larger, which then is there twice for a moment.
        summary.table_count + summary.grows_tables,
        summary.table_min_elements,
        summary.table_min_largest,
    )
    memory_bytes = _each(
        max(0, limit_bytes - _charged(tables_bytes)),
        memories,
        summary.memory_min_bytes,
        summary.memory_min_largest_bytes,
    )
    if summary.kind is ModuleKind.COMPONENT:
        # Of its memories only the number is known.
        return Shares(memory_bytes, table_elements, limit_bytes, limit_bytes // _ELEMENT_BYTES)
    return Shares(
        memory_bytes,
        table_elements,
        max(memory_bytes, summary.memory_min_largest_bytes),
        max(table_elements, summary.table_min_largest),
    )


def _charged(tables_bytes: int) -> int:
    return tables_bytes if tables_bytes > TABLES_FREE_BYTES else 0


def _each(total: int, count: int, least: int, largest: int) -> int:
    """Return what each of ``count`` may grow to, so that all together keep to ``total``.

    They have ``least`` together from the start, one of them ``largest``.
    """
    equal = total // max(count, 1)
    if largest <= equal:
        return equal
    # Whoever has more already keeps it; beyond that there is so much for each.
    return max(0, total - least) // max(count, 1)
