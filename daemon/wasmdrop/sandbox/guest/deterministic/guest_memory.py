"""The memory of the module that called a function of the host's."""

from wasmtime import Caller, Memory

__all__ = ["put", "take"]


def take(caller: Caller, at: int, size: int) -> bytes | None:
    """Return ``size`` bytes of the calling module's memory; None where there are no such."""
    memory = _memory(caller, at, size)
    at &= 0xFFFFFFFF
    return None if memory is None else bytes(memory.read(caller, at, at + (size & 0xFFFFFFFF)))


def put(caller: Caller, at: int, data: bytes) -> bool:
    """Write into the calling module's memory; return whether there is room at that address."""
    memory = _memory(caller, at, len(data))
    if memory is None:
        return False
    if data:
        memory.write(caller, data, at & 0xFFFFFFFF)
    return True


def _memory(caller: Caller, at: int, size: int) -> Memory | None:
    """Return the memory if it has these addresses, which come as signed numbers."""
    memory = caller.get("memory")
    end = (at & 0xFFFFFFFF) + (size & 0xFFFFFFFF)
    return memory if isinstance(memory, Memory) and end <= memory.data_len(caller) else None
