"""The ledger: which modules the store keeps, how much they take, and which was used last.

A module counts as one, its copy and all its machine code together: code without the module could
not be made again, the module without its code would be compiled again. Pure bookkeeping, without
any I/O; whoever calls it holds the store's lock.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["GRACE_SECONDS", "LruIndex"]

#: A module that was used this recently stays: the job that had it looked up is on its way from
#: there to having it compiled, which takes milliseconds.
GRACE_SECONDS: Final = 10.0

#: How often the use of a module is noted on disk, for the next start.
_NOTE_SECONDS: Final = 3600.0


class _CacheEntry:
    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.used_at: float | None = None
        self.noted_at: float | None = None


class LruIndex:
    """Modules by digest, least recently used first. ``clock`` counts seconds and never goes back.

    Promises that :meth:`surplus` names neither a module that is held nor one that was used within
    ``GRACE_SECONDS``: the bound is kept as soon as these allow it.
    """

    def __init__(self, bound_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_bytes = 0
        """Size of all files together."""
        self._bound_bytes = bound_bytes
        self._clock = clock
        self._kept: OrderedDict[str, _CacheEntry] = OrderedDict()
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._kept)

    def has(self, sha256: str, file: str) -> bool:
        """Whether a module's file of this name is kept."""
        kept = self._kept.get(sha256)
        return kept is not None and file in kept.files

    def files(self, sha256: str) -> list[str]:
        """Return the names of a module's files."""
        kept = self._kept.get(sha256)
        return [] if kept is None else list(kept.files)

    def add(self, sha256: str, file: str, size_bytes: int) -> None:
        """Note a file that is there now; a new module counts as used least of all."""
        kept = self._kept.get(sha256)
        if kept is None:
            kept = self._kept[sha256] = _CacheEntry()
        self.total_bytes += size_bytes - kept.files.get(file, 0)
        kept.files[file] = size_bytes

    def remove(self, sha256: str, file: str) -> None:
        """Note a file that is gone."""
        kept = self._kept.get(sha256)
        if kept is None:
            return
        self.total_bytes -= kept.files.pop(file, 0)
        if not kept.files:
            del self._kept[sha256]

    def use(self, sha256: str) -> bool:
        """Note the use of a module; True where it is time to note that on disk."""
        kept = self._kept.get(sha256)
        if kept is None:
            return False
        self._kept.move_to_end(sha256)
        kept.used_at = now = self._clock()
        if kept.noted_at is not None and now - kept.noted_at < _NOTE_SECONDS:
            return False
        kept.noted_at = now
        return True

    def hold(self, sha256: str) -> None:
        """Keep a module from being surplus until it was released as often as it was held."""
        self._held[sha256] += 1

    def release(self, sha256: str) -> None:
        """Undo one :meth:`hold`."""
        self._held[sha256] -= 1
        if not self._held[sha256]:
            del self._held[sha256]

    def surplus(self, incoming_bytes: int = 0) -> Iterator[str]:
        """Give what should go to make room for ``incoming_bytes``; the caller removes it, or not.

        Ends as soon as there is room.
        """
        if self.total_bytes + incoming_bytes <= self._bound_bytes:
            return
        grace_began = self._clock() - GRACE_SECONDS
        for sha256, kept in list(self._kept.items()):
            if self.total_bytes + incoming_bytes <= self._bound_bytes:
                return
            if kept.used_at is not None and kept.used_at > grace_began:
                return  # so were all that follow
            if sha256 not in self._held:
                yield sha256
