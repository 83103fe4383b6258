"""Jobs that wait for their module: each is a record, without a task.

A job registers before it looks for its module, so that no drop between lookup and wait is missed.
Its wait ends when a module is dropped that may be its own, or at its deadline.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

_Waiter = TypeVar("_Waiter")

#: Ended waits whose deadlines have not passed, beyond which they are removed.
_MOST_ENDED: Final = 1024


@dataclass(slots=True, eq=False)
class Wait(Generic[_Waiter]):
    """The wait of one job; made by :meth:`ModuleWaits.watch`."""

    waiter: _Waiter
    keys: Sequence[str]
    deadline: float
    """By the loop's clock."""
    is_parked: bool = False
    is_over: bool = False
    """Whether a module was dropped, the deadline passed, or the wait was cancelled."""


class ModuleWaits(Generic[_Waiter]):
    """All waits, which are equally long; used from one event loop.

    ``on_over`` is called with the waiter of each parked wait that is over.
    """

    def __init__(self, on_over: Callable[[_Waiter], None]) -> None:
        self._on_over = on_over
        self._by_key: dict[str, dict[Wait[_Waiter], None]] = {}
        self._by_deadline: deque[Wait[_Waiter]] = deque()
        self._parked = 0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, waiter: _Waiter, keys: Sequence[str], deadline: float) -> Wait[_Waiter]:
        """Register for drops at ``keys``; :meth:`park` or :meth:`cancel` must follow."""
        wait = Wait(waiter, keys, deadline)
        for key in keys:
            self._by_key.setdefault(key, {})[wait] = None
        return wait

    def park(self, wait: Wait[_Waiter]) -> bool:
        """Call ``on_over`` when the wait is over; return False if it is over already."""
        if wait.is_over:
            return False
        wait.is_parked = True
        self._parked += 1
        self._by_deadline.append(wait)
        if self._timer is None:
            self._set_timer()
        return True

    def cancel(self, wait: Wait[_Waiter]) -> None:
        """End a wait without a call."""
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
        """Make no more calls at deadlines."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, wait: Wait[_Waiter]) -> None:
        was_parked = wait.is_parked
        self.cancel(wait)
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
