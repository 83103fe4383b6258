"""Turns: which slot is next, so that no directory with many slots keeps others waiting."""

from collections import OrderedDict, deque

__all__ = ["Turns"]


class Turns:
    """Slots that have a job to begin, by key: directories take turns, slots of one are in order."""

    def __init__(self) -> None:
        self._by_directory: OrderedDict[str, deque[str]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._by_directory)

    def add(self, key: str) -> None:
        """Put a slot last in its directory."""
        directory = key.rpartition("/")[0]
        self._by_directory.setdefault(directory, deque()).append(key)

    def next(self) -> str:
        """Take the slot whose turn it is; ``KeyError`` where there is none."""
        directory, keys = self._by_directory.popitem(last=False)
        key = keys.popleft()
        if keys:
            self._by_directory[directory] = keys
        return key
