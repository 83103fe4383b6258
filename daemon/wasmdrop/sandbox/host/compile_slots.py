"""Compile slots: which compilations run now, given that some take a moment and others a minute.

The time is not known beforehand, so each compilation starts in a *quick* slot. After a quick period
it is *late*, and moves to a *long* slot as soon as its directory may have one. A late compilation
without a long slot is interrupted if a module of another directory waits; it starts again when it
gets a long slot. So a directory, however many slow modules it has, delays the module of another
directory by at most one quick period per quick slot, and it cannot take all long slots: the last
free one is reserved for directories that hold none.

A directory that holds fewer slots goes first; among equals they take turns. A module that several
directories need counts for the one whose turn comes first.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from typing import Final

#: Calls a function after a number of seconds.
Timer = Callable[[float, Callable[[], None]], asyncio.TimerHandle]


class SlotRequest:
    """The request of one compilation for a slot, and the directories that need its module."""

    def __init__(self, directory: str) -> None:
        self.directories = [directory]
        self.charged = ""
        """The directory for which its slot counts."""
        self.is_late = False
        """Whether its quick period is over, so that it needs a long slot."""
        self.interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it must release its slot and request another one."""
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it has a slot."""


class CompileSlots:
    """``count`` quick slots and one more long ones.

    ``call_later``: a timer, by default that of the event loop.
    """

    def __init__(self, count: int, quick_seconds: float, call_later: Timer | None = None) -> None:
        self._quick_seconds = quick_seconds
        self._call_later = call_later
        self._quick = _SlotPool(count)
        self._long = _SlotPool(count + 1, reserved=1)

    def are_full(self) -> bool:
        """Whether a new compilation has to wait."""
        return self._quick.free == 0

    def add_directory(self, request: SlotRequest, directory: str) -> None:
        """Note that another directory needs the same module."""
        if directory in request.directories:
            return
        request.directories.append(directory)
        for slots in (self._quick, self._long):
            if slots.has_waiting(request):
                slots.wait(request)
        self._assign()

    @contextlib.asynccontextmanager
    async def slot(self, request: SlotRequest) -> AsyncIterator[None]:
        """Wait for a slot and hold it for a block, which must end soon after an interruption."""
        loop = asyncio.get_running_loop()
        request.interrupted, request.granted = loop.create_future(), loop.create_future()
        (self._long if request.is_late else self._quick).wait(request)
        timer: asyncio.TimerHandle | None = None
        try:
            self._assign()
            await request.granted
            if not request.is_late:
                call_later = self._call_later or loop.call_later
                timer = call_later(self._quick_seconds, lambda: self._make_late(request))
            yield
        finally:
            if timer is not None:
                timer.cancel()
            for slots in (self._quick, self._long):
                slots.release(request)
            self._assign()

    def _make_late(self, request: SlotRequest) -> None:
        request.is_late = True
        self._long.wait(request)
        self._assign()

    def _assign(self) -> None:
        """Assign all free slots; interrupt a late compilation if another one needs its slot."""
        while (request := self._long.next()) is not None:
            self._quick.release(request)
            self._grant(self._long, request)
        while (request := self._quick.next()) is not None:
            self._grant(self._quick, request)
        # The remaining quick slots can be used by late compilations, which can be interrupted.
        while self._quick.free and (request := self._long.next(self._quick.held)) is not None:
            self._grant(self._quick, request)
        late = [request for request in self._quick.held if request.is_late]
        if any(request.interrupted.done() for request in late):
            return  # its slot will be free in a moment
        for request in late:
            if self._quick.is_wanted_by_others(request.charged):
                # It does not wait for a long slot until it has released this one.
                self._long.release(request)
                request.interrupted.set_result(None)
                return

    @staticmethod
    def _grant(slots: "_SlotPool", request: SlotRequest) -> None:
        slots.grant(request)
        if not request.granted.done():
            request.granted.set_result(None)


class _SlotPool:
    """``count`` slots; the last ``reserved`` are for directories that hold none of them."""

    def __init__(self, count: int, reserved: int = 0) -> None:
        self._count: Final = count
        self._reserved: Final = reserved
        self.held: dict[SlotRequest, None] = {}
        self._waiting: dict[str, dict[SlotRequest, None]] = {}
        """By directory, in the order of arrival."""
        self._served: dict[str, int] = {}
        """When a directory that holds or needs slots last got one, as a number."""
        self._turn = 0

    @property
    def free(self) -> int:
        """Return the number of free slots."""
        return self._count - len(self.held)

    def wait(self, request: SlotRequest) -> None:
        """Append a request to the queue of each of its directories, unless it is there."""
        for name in request.directories:
            self._waiting.setdefault(name, {})[request] = None

    def has_waiting(self, request: SlotRequest) -> bool:
        """Whether a request waits here."""
        return request in self._waiting.get(request.directories[0], ())

    def is_wanted_by_others(self, directory: str) -> bool:
        """Whether a request of another directory waits here."""
        return len(self._waiting) > (directory in self._waiting)

    def next(self, aside: Collection[SlotRequest] | None = None) -> SlotRequest | None:
        """Return the request that gets the next slot, charged to a directory; None if none can.

        With ``aside``, the one that would be next without these, and if there were a free slot.
        """
        if not self._waiting or (aside is None and self.free == 0):
            return None
        held = Counter(request.charged for request in self.held)
        first = {
            name: next((request for request in waiting if request not in (aside or ())), None)
            for name, waiting in self._waiting.items()
            if aside is not None or self.free > self._reserved or not held[name]
        }
        able = {name: request for name, request in first.items() if request is not None}
        if not able:
            return None
        name = min(able, key=lambda name: (held[name], self._served.get(name, 0)))
        able[name].charged = name
        return able[name]

    def grant(self, request: SlotRequest) -> None:
        """Give a slot to a request that waits for it."""
        self.release(request)
        self.held[request] = None
        self._turn += 1
        self._served[request.charged] = self._turn

    def release(self, request: SlotRequest) -> None:
        """Take the slot of a request, or remove it from the queues."""
        self.held.pop(request, None)
        for name in request.directories:
            waiting = self._waiting.get(name, {})
            waiting.pop(request, None)
            if not waiting:
                self._waiting.pop(name, None)
                if all(other.charged != name for other in self.held):
                    self._served.pop(name, None)
