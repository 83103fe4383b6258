"""Unit tests of memory shares: memories and tables of any module keep to the limit together."""

from hypothesis import given
from hypothesis import strategies as st

from wasmdrop.protocol.limits import MEBIBYTE, Limits
from wasmdrop.protocol.module_types import ModuleKind, ModuleSummary
from wasmdrop.sandbox.memory_shares import TABLES_FREE_BYTES, initial_bytes, memory_shares_of

_PAGE_BYTES = 65536
_ELEMENT_BYTES = 8


def a_module(
    memories: list[int], tables: list[int], *, grows: bool = False, has_heap: bool = False
) -> ModuleSummary:
    """Return the summary of a module with these minimum sizes, in bytes and in elements."""
    return ModuleSummary(
        ModuleKind.LIBRARY,
        memory_min_bytes=sum(memories),
        memory_min_largest_bytes=max(memories, default=0),
        memory_count=len(memories),
        table_min_elements=sum(tables),
        table_min_largest=max(tables, default=0),
        table_count=len(tables),
        grows_tables=grows,
        has_gc_heap=has_heap,
    )


@given(
    memories=st.lists(st.integers(0, 300).map(lambda pages: pages * _PAGE_BYTES), max_size=9),
    tables=st.lists(st.integers(0, 1 << 19), max_size=9),
    grows=st.booleans(),
    has_heap=st.booleans(),
    memory_mb=st.integers(1, 64),
)
def test_memory_shares_of_any_module_keep_to_the_limit(
    memories: list[int], tables: list[int], grows: bool, has_heap: bool, memory_mb: int
) -> None:
    """If their initial sizes do: with all at their limits and one table copied while it grows."""
    summary = a_module(memories, tables, grows=grows, has_heap=has_heap)
    limits = Limits(memory_mb=memory_mb)
    shares = memory_shares_of(summary, limits)
    assert all(least <= shares.memory_bytes_at_first for least in memories)
    assert all(least <= shares.table_elements_at_first for least in tables)
    if initial_bytes(summary) > limits.memory_bytes:
        return  # it is refused before it runs
    taken = sum(max(least, shares.memory_bytes) for least in memories)
    taken += shares.memory_bytes * has_heap
    sizes = [max(least, shares.table_elements) if grows else least for least in tables]
    growing = [size for least, size in zip(tables, sizes, strict=True) if size > least]
    taken += (sum(sizes) + max(growing, default=0)) * _ELEMENT_BYTES
    assert taken <= limits.memory_bytes + TABLES_FREE_BYTES


def test_memory_share_of_one_memory_and_small_tables_is_the_whole_limit() -> None:
    """Tables of fixed size, with a hundred thousand elements, are not charged."""
    shares = memory_shares_of(a_module([_PAGE_BYTES], [100_000]), Limits(memory_mb=16))
    assert shares.memory_bytes == shares.memory_bytes_at_first == 16 * MEBIBYTE


def test_memory_shares_of_several_memories_are_equal() -> None:
    """A memory with a larger initial size leaves the rest to the others."""
    limits = Limits(memory_mb=16)
    assert memory_shares_of(a_module([0, 0], []), limits).memory_bytes == 8 * MEBIBYTE
    shares = memory_shares_of(a_module([12 * MEBIBYTE, 0], []), limits)
    assert shares.memory_bytes == 2 * MEBIBYTE
    assert shares.memory_bytes_at_first == 12 * MEBIBYTE
