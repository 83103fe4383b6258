"""Hand drops from the watcher's and the scanner's threads over to the event loop."""

import asyncio
from collections import deque
from collections.abc import Callable

from wasmdrop.intake.drops import Drop


class Inbox:
    """A queue into the event loop; drops wait in it until it is connected.

    One wake-up of the loop hands over all drops that wait.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._take: Callable[[Drop], None] | None = None
        self._waiting: deque[Drop] = deque()
        self._is_scheduled = False

    def connect(self, take: Callable[[Drop], None]) -> None:
        """Call ``take`` with each drop, on the event loop."""
        self._take = take
        self._loop.call_soon(self._empty)

    def put(self, drop: Drop) -> None:
        """Hand over a drop; from any thread."""
        self._waiting.append(drop)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon_threadsafe(self._empty)

    async def emptied(self) -> None:
        """Return when all drops that were put in before have been taken."""
        emptied: asyncio.Future[None] = self._loop.create_future()
        # In the second turn: the first one empties the queue and schedules the calls.
        self._loop.call_soon(self._loop.call_soon, emptied.set_result, None)
        await emptied

    def _empty(self) -> None:
        if self._take is None:
            return
        self._is_scheduled = False  # first: a drop put in from now on schedules another call
        while self._waiting:
            # One callback per drop: an exception in one does not affect the others.
            self._loop.call_soon(self._take, self._waiting.popleft())
