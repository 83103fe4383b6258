"""The window: how many jobs a daemon has in the fleet at a time. The others wait in its journal."""

import asyncio
from collections import deque


class Window:
    """Room for jobs, given in the order of requests; used from one event loop."""

    def __init__(self, size: int) -> None:
        self._room = size
        self._waiters: deque[asyncio.Future[bool]] = deque()

    @property
    def waiting(self) -> int:
        """Jobs that wait for room."""
        return len(self._waiters)

    async def enter(self) -> bool:
        """Wait for room and take it; False if the job was sent away."""
        if self._room > 0:
            self._room -= 1
            return True
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.result():
                self.leave()
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def leave(self) -> None:
        """Give room back."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(True)
                return
        self._room += 1

    def send_away(self) -> None:
        """Send all jobs away that wait for room."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(False)
