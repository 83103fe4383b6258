"""ModuleWaits: jobs whose module is not there yet. Each is a record; none of them has a task.

A job is put here before it looks for its module, so that no drop is missed between its look and its
wait. It leaves when a module is dropped where it may find its own, or at its deadline.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

__all__ = ["ModuleWaits"]

_Waiter = TypeVar("_Waiter")

#: Ended waits whose deadlines are not over, past which they are cleared away.
_MOST_ENDED: Final = 1024


@dataclass(slots=True, eq=False)
class _Wait(Generic[_Waiter]):
    waiter: _Waiter
    keys: Sequence[str]
    deadline: float
    """By the loop's clock."""
    is_parked: bool = False
    is_over: bool = False
    """Whether something was dropped, or its time has come, or it was called off."""


class ModuleWaits(Generic[_Waiter]):
    """Has those that wait. All wait equally long; used from one event loop.

    ``on_over``: called with each that was parked when its wait is over.
    """

    def __init__(self, on_over: Callable[[_Waiter], None]) -> None:
        self._on_over = on_over
        self._by_key: dict[str, dict[_Wait[_Waiter], None]] = {}
        self._by_deadline: deque[_Wait[_Waiter]] = deque()
        self._parked = 0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, waiter: _Waiter, keys: Sequence[str], deadline: float) -> _Wait[_Waiter]:
        """Watch out for drops at ``keys``; :meth:`park` or :meth:`call_off` is owed."""
        wait = _Wait(waiter, keys, deadline)
        for key in keys:
            self._by_key.setdefault(key, {})[wait] = None
        return wait

    def park(self, wait: _Wait[_Waiter]) -> bool:
        """Have ``on_over`` called when the wait is over; False if it is over already."""
        if wait.is_over:
            return False
        wait.is_parked = True
        self._parked += 1
        self._by_deadline.append(wait)
        if self._timer is None:
            self._set_timer()
        return True

    def call_off(self, wait: _Wait[_Waiter]) -> None:
        """Wait no more."""
        wait.is_over = True
        if wait.is_parked:
            wait.is_parked = False
            self._parked -= 1
        for key in wait.keys:
            waits = self._by_key.get(key)
            if waits is not None:
                waits.pop(wait, None)
                if not waits:
                    del self._by_key[key]

    def wake(self, keys: Sequence[str]) -> None:
        """End the waits of these keys."""
        for key in keys:
            for wait in list(self._by_key.get(key, ())):
                self._end(wait)
        if len(self._by_deadline) > 2 * self._parked + _MOST_ENDED:
            self._by_deadline = deque(wait for wait in self._by_deadline if wait.is_parked)

    def close(self) -> None:
        """Call nobody any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, wait: _Wait[_Waiter]) -> None:
        was_parked = wait.is_parked
        self.call_off(wait)
        if was_parked:
            self._on_over(wait.waiter)

    def _set_timer(self) -> None:
        self._timer = None
        if self._by_deadline:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._by_deadline[0].deadline, self._on_time)

    def _on_time(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._by_deadline and self._by_deadline[0].deadline <= now:
            wait = self._by_deadline.popleft()
            if wait.is_parked:
                self._end(wait)
        self._set_timer()
