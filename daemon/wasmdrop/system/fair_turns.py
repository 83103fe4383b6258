"""A queue and a semaphore in which owners take turns. Items of one owner stay in order."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class FairTurns(Generic[_Item]):
    """Items by owner; used from one thread."""

    def __init__(self) -> None:
        self._by_owner: OrderedDict[str, deque[_Item]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Return the number of items."""
        return self._count

    def add(self, items: Iterable[tuple[str, _Item]]) -> None:
        """Add items with their owners."""
        for owner, item in items:
            self._by_owner.setdefault(owner, deque()).append(item)
            self._count += 1

    def take(self, most: int) -> list[_Item]:
        """Remove and return at most so many items; owners take turns."""
        taken: list[_Item] = []
        while self._by_owner and len(taken) < most:
            owner, items = self._by_owner.popitem(last=False)
            taken.append(items.popleft())
            if items:
                self._by_owner[owner] = items
        self._count -= len(taken)
        return taken


class FairSemaphore:
    """A semaphore of value ``room`` with fair turns; used from one event loop."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._waiting: FairTurns[asyncio.Future[None]] = FairTurns()

    async def acquire(self, owner: str) -> None:
        """Wait for room; :meth:`release` must follow."""
        if self._room > 0:
            self._room -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add([(owner, turn)])
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Let the next waiting task go on; without one, count the room as free."""
        while self._waiting:
            [turn] = self._waiting.take(1)
            if not turn.done():  # else its task was cancelled
                turn.set_result(None)
                return
        self._room += 1
