"""A queue of slots that is fair to their owners and directories.

Each top directory belongs to one owner, however many directories it contains. Top directories take
turns, and so do the directories within each of them.
"""

from collections import OrderedDict, deque


class FairQueue:
    """Slots by key, a path that may begin with ``root``. Slots of one directory stay in order."""

    def __init__(self, root: str = "") -> None:
        self._prefix = f"{root.rstrip('/')}/" if root else ""
        self._by_top: OrderedDict[str, OrderedDict[str, deque[str]]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._by_top)

    def add(self, key: str) -> None:
        """Add a slot behind the others of its directory."""
        directory = key.removeprefix(self._prefix).rpartition("/")[0]
        by_directory = self._by_top.setdefault(directory.partition("/")[0], OrderedDict())
        by_directory.setdefault(directory, deque()).append(key)

    def next(self) -> str:
        """Remove and return the next slot. Raises ``KeyError`` if there is none."""
        top, by_directory = self._by_top.popitem(last=False)
        directory, keys = by_directory.popitem(last=False)
        key = keys.popleft()
        if keys:
            by_directory[directory] = keys
        if by_directory:
            self._by_top[top] = by_directory
        return key
