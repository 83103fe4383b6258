"""A queue of file events that is fair to the owners of directories.

The kernel's queue is in order of time: an event would wait for all that one producer caused before
it. Events of one owner stay in order.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Generic, TypeVar

_Event = TypeVar("_Event")


class FairEvents(Generic[_Event]):
    """Events by owner; used from one thread."""

    def __init__(self) -> None:
        self._by_owner: OrderedDict[str, deque[_Event]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Return the number of events."""
        return self._count

    def add(self, events: Iterable[tuple[str, _Event]]) -> None:
        """Add events with their owners."""
        for owner, event in events:
            self._by_owner.setdefault(owner, deque()).append(event)
            self._count += 1

    def take(self, most: int) -> list[_Event]:
        """Remove and return at most so many events; owners take turns."""
        taken: list[_Event] = []
        while self._by_owner and len(taken) < most:
            owner, events = self._by_owner.popitem(last=False)
            taken.append(events.popleft())
            if events:
                self._by_owner[owner] = events
        self._count -= len(taken)
        return taken
