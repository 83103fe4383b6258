"""CompileSlots: which compilations run now, given that some take a moment, others a minute.

Nobody can tell beforehand which, so every compilation begins in a *quick* place. Past a quick
period it is *late*, and moves to a *long* place as soon as its directory may have one. A late one
that has none is interrupted if a module of another directory waits; it begins anew when it gets a
long place. So no directory, however many slow modules it has, delays another directory's module by
more than one quick period in a quick place, and it can't take all long places: the last free one is
kept for directories that hold none.

A directory that holds fewer places goes first; among equals they take turns. A module that several
directories want counts for the one whose turn comes first.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from typing import Final

__all__ = ["CompileSlots", "SlotRequest"]

#: Calls a function after so many seconds.
Timer = Callable[[float, Callable[[], None]], asyncio.TimerHandle]


class SlotRequest:
    """One compilation that wants a place, and the directories that want it."""

    def __init__(self, directory: str) -> None:
        self.directories = [directory]
        self.charged = ""
        """Whose place it holds."""
        self.is_late = False
        """Whether it had its quick period, and so wants a long place."""
        self.interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it must leave its place and enter again."""
        self.entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it has a place."""


class CompileSlots:
    """``count`` quick places and one more long ones.

    ``call_later`` is the event loop's, if none is given.
    """

    def __init__(self, count: int, quick_seconds: float, call_later: Timer | None = None) -> None:
        self._quick_seconds = quick_seconds
        self._call_later = call_later
        self._quick = _SlotPool(count)
        self._long = _SlotPool(count + 1, kept=1)

    def are_full(self) -> bool:
        """Whether a new compilation has to wait."""
        return self._quick.free == 0

    def also_for(self, entrant: SlotRequest, directory: str) -> None:
        """Note that another directory wants the same module."""
        if directory in entrant.directories:
            return
        entrant.directories.append(directory)
        for places in (self._quick, self._long):
            if places.has_waiting(entrant):
                places.wait(entrant)
        self._settle()

    @contextlib.asynccontextmanager
    async def place(self, entrant: SlotRequest) -> AsyncIterator[None]:
        """Wait for a place and hold it for a block, which ends soon after an interruption."""
        loop = asyncio.get_running_loop()
        entrant.interrupted, entrant.entered = loop.create_future(), loop.create_future()
        (self._long if entrant.is_late else self._quick).wait(entrant)
        timer: asyncio.TimerHandle | None = None
        try:
            self._settle()
            await entrant.entered
            if not entrant.is_late:
                call_later = self._call_later or loop.call_later
                timer = call_later(self._quick_seconds, lambda: self._is_late(entrant))
            yield
        finally:
            if timer is not None:
                timer.cancel()
            for places in (self._quick, self._long):
                places.leave(entrant)
            self._settle()

    def _is_late(self, entrant: SlotRequest) -> None:
        entrant.is_late = True
        self._long.wait(entrant)
        self._settle()

    def _settle(self) -> None:
        """Give every place that is free to whose turn it is; interrupt who is in the way."""
        while (entrant := self._long.next()) is not None:
            self._quick.leave(entrant)
            self._enter(self._long, entrant)
        while (entrant := self._quick.next()) is not None:
            self._enter(self._quick, entrant)
        # What is left of the quick places need not be idle: who is late there can be interrupted.
        while self._quick.free and (entrant := self._long.next(self._quick.held)) is not None:
            self._enter(self._quick, entrant)
        late = [entrant for entrant in self._quick.held if entrant.is_late]
        if any(entrant.interrupted.done() for entrant in late):
            return  # its place will be free in a moment
        for entrant in late:
            if self._quick.is_wanted_by_others(entrant.charged):
                # It is no longer in line for a long place, until it has left this one.
                self._long.leave(entrant)
                entrant.interrupted.set_result(None)
                return

    @staticmethod
    def _enter(places: "_SlotPool", entrant: SlotRequest) -> None:
        places.enter(entrant)
        if not entrant.entered.done():
            entrant.entered.set_result(None)


class _SlotPool:
    """So many places, of which the last ``kept`` go to directories that hold none alone."""

    def __init__(self, count: int, kept: int = 0) -> None:
        self._count: Final = count
        self._kept: Final = kept
        self.held: dict[SlotRequest, None] = {}
        self._waiting: dict[str, dict[SlotRequest, None]] = {}
        """By directory, in the order in which they came."""
        self._served: dict[str, int] = {}
        """When a directory that holds or wants places was last given one, as a number."""
        self._turn = 0

    @property
    def free(self) -> int:
        """How many places nobody holds."""
        return self._count - len(self.held)

    def wait(self, entrant: SlotRequest) -> None:
        """Put one last in each of its directories that it is not in yet."""
        for name in entrant.directories:
            self._waiting.setdefault(name, {})[entrant] = None

    def has_waiting(self, entrant: SlotRequest) -> bool:
        """Whether one waits here."""
        return entrant in self._waiting.get(entrant.directories[0], ())

    def is_wanted_by_others(self, directory: str) -> bool:
        """Whether one waits here for another directory than that."""
        return len(self._waiting) > (directory in self._waiting)

    def next(self, aside: Collection[SlotRequest] | None = None) -> SlotRequest | None:
        """Return who gets the next place, charged to a directory; None if there is none for any.

        With ``aside``, who would be next but for these and for a lack of places.
        """
        if not self._waiting or (aside is None and self.free == 0):
            return None
        held = Counter(entrant.charged for entrant in self.held)
        first = {
            name: next((entrant for entrant in waiting if entrant not in (aside or ())), None)
            for name, waiting in self._waiting.items()
            if aside is not None or self.free > self._kept or not held[name]
        }
        able = {name: entrant for name, entrant in first.items() if entrant is not None}
        if not able:
            return None
        name = min(able, key=lambda name: (held[name], self._served.get(name, 0)))
        able[name].charged = name
        return able[name]

    def enter(self, entrant: SlotRequest) -> None:
        """Give a place to one that waits for it."""
        self.leave(entrant)
        self.held[entrant] = None
        self._turn += 1
        self._served[entrant.charged] = self._turn

    def leave(self, entrant: SlotRequest) -> None:
        """Take the place of one that has it, or its wait for one."""
        self.held.pop(entrant, None)
        for name in entrant.directories:
            waiting = self._waiting.get(name, {})
            waiting.pop(entrant, None)
            if not waiting:
                self._waiting.pop(name, None)
                if all(other.charged != name for other in self.held):
                    self._served.pop(name, None)
