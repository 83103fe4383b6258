"""A queue of slots that is fair to their owners and directories.

Each top directory belongs to one owner, however many directories it contains. Top directories take
turns, and so do the directories within each of them.
"""

from collections import OrderedDict


class FairQueue:
    """Slots by key, a path that may begin with ``root``. Slots of one directory stay in order.

    A top directory that is held has no turns until it is released.
    """

    def __init__(self, root: str = "") -> None:
        self._prefix = f"{root.rstrip('/')}/" if root else ""
        # Ordered dictionaries: the first entry and any other one are removed in constant time.
        self._by_top: OrderedDict[str, OrderedDict[str, OrderedDict[str, None]]] = OrderedDict()
        self._held: dict[str, OrderedDict[str, OrderedDict[str, None]]] = {}

    def __bool__(self) -> bool:
        """Return whether any slot has a turn."""
        return bool(self._by_top)

    def add(self, key: str) -> None:
        """Add a slot behind the others of its directory."""
        directory = key.removeprefix(self._prefix).rpartition("/")[0]
        top = directory.partition("/")[0]
        by_directory = self._held.get(top)
        if by_directory is None:
            by_directory = self._by_top.setdefault(top, OrderedDict())
        by_directory.setdefault(directory, OrderedDict())[key] = None

    def next(self) -> str:
        """Remove and return the next slot. Raises ``KeyError`` if there is none."""
        top, by_directory = self._by_top.popitem(last=False)
        directory, keys = by_directory.popitem(last=False)
        key, _ = keys.popitem(last=False)
        if keys:
            by_directory[directory] = keys
        if by_directory:
            self._by_top[top] = by_directory
        return key

    def remove(self, key: str) -> bool:
        """Remove a slot; return False if it is not in the queue."""
        directory = key.removeprefix(self._prefix).rpartition("/")[0]
        top = directory.partition("/")[0]
        by_directory = self._held.get(top) or self._by_top.get(top)
        keys = None if by_directory is None else by_directory.get(directory)
        if by_directory is None or keys is None or key not in keys:
            return False
        del keys[key]
        if not keys:
            del by_directory[directory]
        if not by_directory:
            self._by_top.pop(top, None)
        return True

    def hold(self, top: str) -> None:
        """Give a top directory no turn until :meth:`release`."""
        self._held[top] = self._by_top.pop(top, OrderedDict())

    def release(self, top: str) -> None:
        """Let a held top directory take turns again, behind the others."""
        by_directory = self._held.pop(top)
        if by_directory:
            self._by_top[top] = by_directory

    def waiting_held(self) -> list[str]:
        """Return the held top directories that have slots in the queue."""
        # A copy, because another thread may call this.
        return [top for top, by_directory in self._held.copy().items() if by_directory]
