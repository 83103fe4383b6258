"""Measure the guest's memories from the process's own memory map.

wasmtime's C API tells only the size of an exported memory. It has no access to the memories inside
a component and to the heap of structs and exceptions, and no callback when a memory grows. But the
kernel's map shows them: for each memory, wasmtime reserves 4 GiB of addresses with guard regions
before and after, and makes only the used part writable. No stack or heap of the process looks like
that.

The map must be opened before the process is confined.
"""

import os
from typing import Final

#: Addresses that wasmtime reserves for a memory; a larger memory gets more.
_RESERVED_BYTES: Final = 1 << 32

#: The inaccessible region before each memory.
_GUARD_BYTES: Final = 32 << 20


def open_address_map() -> int | None:
    """Return a descriptor of this process's memory map; None if it can't be opened."""
    try:
        return os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def memory_sizes(address_map: int) -> list[int]:
    """Return the current sizes in bytes of all memories."""
    found = []
    run_bytes = run_end = 0
    guard_bytes = guard_end = 0
    is_guarded = False
    for line in _content(address_map).splitlines():
        addresses, _space, rest = line.partition(b" ")
        low, _dash, high = addresses.partition(b"-")
        start, end = int(low, 16), int(high, 16)
        if rest.startswith(b"rw-p"):
            # A memory may have several parts: the module's data segments are mapped separately.
            if start == run_end:
                run_bytes += end - start
            else:
                run_bytes = end - start
                is_guarded = start == guard_end and guard_bytes >= _GUARD_BYTES
            run_end = end
        elif rest.startswith(b"---p"):
            guard_bytes, guard_end = end - start, end
            if is_guarded and start == run_end and run_bytes + guard_bytes >= _RESERVED_BYTES:
                found.append(run_bytes)
    return found


def _content(address_map: int) -> bytes:
    parts = []
    os.lseek(address_map, 0, os.SEEK_SET)
    while part := os.read(address_map, 1 << 16):
        parts.append(part)
    return b"".join(parts)
