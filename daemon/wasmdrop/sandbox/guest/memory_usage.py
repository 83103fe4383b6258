"""How large the guest's memories are, found in the process's own map of its addresses.

wasmtime tells the size of a memory that a module exports, and of no other: not of those inside a
component, nor of the heap of structs and exceptions, which is a memory, too. Its C interface has
neither a way to them nor a callback when one grows. But the kernel knows. For each memory wasmtime
reserves 4 GiB of addresses and guards before and behind them; what the memory has is writable, all
else of it can't be touched. Nothing else of the process looks like that, be it stack or heap.

The map must be opened before the process is confined, which can't open it any more.
"""

import os
from typing import Final

__all__ = ["memory_sizes", "open_address_map"]

#: What wasmtime reserves for a memory; a larger one takes more.
_RESERVED_BYTES: Final = 1 << 32

#: What wasmtime leaves untouchable before each memory.
_GUARD_BYTES: Final = 32 << 20


def open_address_map() -> int | None:
    """Return a descriptor of this process's map; None where the system gives none."""
    try:
        return os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def memory_sizes(address_map: int) -> list[int]:
    """Return the sizes in bytes of all memories that there are now."""
    found = []
    run_bytes = run_end = 0
    guard_bytes = guard_end = 0
    is_guarded = False
    for line in _content(address_map).splitlines():
        addresses, _space, rest = line.partition(b" ")
        low, _dash, high = addresses.partition(b"-")
        start, end = int(low, 16), int(high, 16)
        if rest.startswith(b"rw-p"):
            # One memory may be of several parts: data that the module brings are mapped from it.
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
