"""Read and write the memory of the module that calls a host function."""

from wasmtime import Caller, Memory


def read(caller: Caller, at: int, size: int) -> bytes | None:
    """Return ``size`` bytes of the calling module's memory; None if they are out of bounds."""
    memory = _memory(caller, at, size)
    at &= 0xFFFFFFFF
    return None if memory is None else bytes(memory.read(caller, at, at + (size & 0xFFFFFFFF)))


def write(caller: Caller, at: int, data: bytes) -> bool:
    """Write to the calling module's memory; return False if it would be out of bounds."""
    memory = _memory(caller, at, len(data))
    if memory is None:
        return False
    if data:
        memory.write(caller, data, at & 0xFFFFFFFF)
    return True


def _memory(caller: Caller, at: int, size: int) -> Memory | None:
    """Return the memory if it has these addresses, which are passed as signed numbers."""
    memory = caller.get("memory")
    end = (at & 0xFFFFFFFF) + (size & 0xFFFFFFFF)
    return memory if isinstance(memory, Memory) and end <= memory.data_len(caller) else None
