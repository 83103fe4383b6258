"""Turns: which slot is next, so that no owner and no directory keeps others waiting.

A directory at the top belongs to one owner, however many directories that one makes in it: such
directories take turns, and in each of them the directories below it do.
"""

from collections import OrderedDict, deque

__all__ = ["FairQueue"]


class FairQueue:
    """Slots that have a job to begin, by key: a path, which may begin with ``root``.

    Slots of one directory are in order.
    """

    def __init__(self, root: str = "") -> None:
        self._prefix = f"{root.rstrip('/')}/" if root else ""
        self._by_top: OrderedDict[str, OrderedDict[str, deque[str]]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._by_top)

    def add(self, key: str) -> None:
        """Put a slot last in its directory."""
        directory = key.removeprefix(self._prefix).rpartition("/")[0]
        by_directory = self._by_top.setdefault(directory.partition("/")[0], OrderedDict())
        by_directory.setdefault(directory, deque()).append(key)

    def next(self) -> str:
        """Take the slot whose turn it is; ``KeyError`` where there is none."""
        top, by_directory = self._by_top.popitem(last=False)
        directory, keys = by_directory.popitem(last=False)
        key = keys.popleft()
        if keys:
            by_directory[directory] = keys
        if by_directory:
            self._by_top[top] = by_directory
        return key
