"""Search the memory of processes, as root may."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_CHUNK_BYTES: Final = 1 << 22
_PAGE_BYTES: Final = 4096

#: Pages that the kernel shows to a process and hides from readers of its memory.
_OF_THE_KERNEL: Final = ("[vvar", "[vsyscall]")


def found_in(pid: int, needles: Mapping[str, bytes]) -> set[str]:
    """Return the names of the needles that are in a process's readable memory.

    Raises ``FileNotFoundError`` or ``ProcessLookupError`` if the process has ended.
    """
    found: set[str] = set()
    overlap = max(map(len, needles.values())) - 1
    read_bytes = 0
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end in _readable(pid):
            tail = b""
            position = start
            while position < end:
                size = min(_CHUNK_BYTES, end - position)
                data = _read(memory.fileno(), position, size)
                text = tail + data
                found |= {name for name, needle in needles.items() if needle in text}
                # A page that can't be read is beyond the end of a mapped file.
                tail = text[-overlap:] if data else b""
                position += len(data) or _PAGE_BYTES
                read_bytes += len(data)
    assert read_bytes > 1 << 20, f"only {read_bytes} bytes of process {pid} could be read"
    return found


def _readable(pid: int) -> list[tuple[int, int]]:
    spans = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, rights, *rest = line.split(maxsplit=5)
        if rights.startswith("r") and not rest[-1].startswith(_OF_THE_KERNEL):
            start, end = (int(address, 16) for address in addresses.split("-"))
            spans.append((start, end))
    if not spans:
        raise ProcessLookupError
    return spans


def _read(fd: int, position: int, size: int) -> bytes:
    for length in (size, _PAGE_BYTES):
        with contextlib.suppress(OSError):
            return os.pread(fd, length, position)
    return b""
