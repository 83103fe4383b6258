"""The index of the module cache: which modules it keeps, their sizes, and which was used last.

A module counts as one, its copy and all its machine code together: code without the module could
not be made again, and a module without its code would be compiled again. No I/O; the caller holds
the cache's lock.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

#: A module that was used this recently is not evicted, in seconds: a job that has just looked it up
#: needs milliseconds to load it.
GRACE_SECONDS: Final = 10.0

#: Interval at which the use of a module is recorded on disk, in seconds, for the next start.
_RECORD_SECONDS: Final = 3600.0


class _CacheEntry:
    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.used_at: float | None = None
        self.recorded_at: float | None = None


class LruIndex:
    """Modules by digest, the least recently used first. ``clock``: a monotonic clock in seconds.

    Guarantees that :meth:`surplus` yields neither a held module nor one that was used within
    ``GRACE_SECONDS``; the limit holds as soon as these allow it.
    """

    def __init__(self, limit_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_bytes = 0
        """Size of all files together."""
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._entries: OrderedDict[str, _CacheEntry] = OrderedDict()
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def has(self, sha256: str, file: str) -> bool:
        """Whether the cache has a file of a module."""
        entry = self._entries.get(sha256)
        return entry is not None and file in entry.files

    def files(self, sha256: str) -> list[str]:
        """Return the names of a module's files."""
        entry = self._entries.get(sha256)
        return [] if entry is None else list(entry.files)

    def add(self, sha256: str, file: str, size_bytes: int) -> None:
        """Add a file; a new module counts as the least recently used."""
        entry = self._entries.get(sha256)
        if entry is None:
            entry = self._entries[sha256] = _CacheEntry()
        self.total_bytes += size_bytes - entry.files.get(file, 0)
        entry.files[file] = size_bytes

    def remove(self, sha256: str, file: str) -> None:
        """Remove a file."""
        entry = self._entries.get(sha256)
        if entry is None:
            return
        self.total_bytes -= entry.files.pop(file, 0)
        if not entry.files:
            del self._entries[sha256]

    def use(self, sha256: str) -> bool:
        """Record a use. Return whether it is to be recorded on disk too."""
        entry = self._entries.get(sha256)
        if entry is None:
            return False
        self._entries.move_to_end(sha256)
        entry.used_at = now = self._clock()
        if entry.recorded_at is not None and now - entry.recorded_at < _RECORD_SECONDS:
            return False
        entry.recorded_at = now
        return True

    def hold(self, sha256: str) -> None:
        """Protect a module until it is released as often as it was held."""
        self._held[sha256] += 1

    def release(self, sha256: str) -> None:
        """Undo one :meth:`hold`."""
        self._held[sha256] -= 1
        if not self._held[sha256]:
            del self._held[sha256]

    def surplus(self, incoming_bytes: int = 0) -> Iterator[str]:
        """Yield the modules to evict for ``incoming_bytes``; the caller evicts them, or not.

        Ends as soon as there is room.
        """
        if self.total_bytes + incoming_bytes <= self._limit_bytes:
            return
        grace_start = self._clock() - GRACE_SECONDS
        for sha256, entry in list(self._entries.items()):
            if self.total_bytes + incoming_bytes <= self._limit_bytes:
                return
            if entry.used_at is not None and entry.used_at > grace_start:
                return  # all that follow were used later
            if sha256 not in self._held:
                yield sha256
