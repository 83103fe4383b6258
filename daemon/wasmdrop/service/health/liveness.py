"""Vital signs: each part of the daemon that work passes through is spoken to, and must answer.

A thread may live and yet do nothing: what counts is an answer that took the way of real work, an
event through the kernel's queue for the watcher, a request for the journal, a packet for the
forking server. The event loop answers by running the task that asks the others.

A part is judged from its first answer on, so that one that can't be spoken to here (a kernel
without events, say) is not taken for dead.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from wasmdrop.system.heartbeat import Heartbeat

__all__ = ["SILENT_SECONDS", "Liveness", "Part"]

_log = structlog.get_logger()

#: How long a part may be silent before it counts as stuck. One sync of a bad disk can take ten
#: seconds; restarting for that would only add to the load.
SILENT_SECONDS: Final = 20.0

#: How often the parts are spoken to, in seconds; each costs its thread a few microseconds.
_PERIOD_SECONDS: Final = 2.0


class Part(Protocol):
    """What can be asked for a sign of life."""

    @property
    def heartbeat(self) -> Heartbeat:
        """When it last gave one."""

    def ping(self) -> None:
        """Ask for one, without waiting for it. Called on the event loop."""


class Liveness:
    """The signs of life of all ``parts``, by their names, and of the event loop.

    ``tell_manager`` is called every so often, but not while a part is silent: what a service
    manager's watchdog waits for. ``manager_seconds`` is how long that watchdog waits.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        tell_manager: Callable[[], None],
        manager_seconds: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.are_awaited = manager_seconds is not None
        """Whether a service manager waits for them."""
        self._parts = parts
        self._tell_manager = tell_manager
        self._clock = clock
        self._loop = Heartbeat()
        # Half of what the manager allows is what it asks for; a third leaves room for a busy core.
        self._period_seconds = min(_PERIOD_SECONDS, (manager_seconds or _PERIOD_SECONDS * 3) / 3)

    async def keep_asking(self) -> None:
        """Ask all parts, for ever."""
        was_silent: set[str] = set()
        while True:
            # After a pause of the whole process (SIGSTOP, a frozen container) no part was asked.
            was_away = "event_loop" in self.silent()
            self._loop.beat()
            for part in self._parts.values():
                part.ping()
            silent = set() if was_away else set(self.silent())
            for name in silent - was_silent:
                _log.error("part-silent", part=name, seconds=SILENT_SECONDS)
            was_silent = silent
            if not silent:
                self._tell_manager()
            await asyncio.sleep(self._period_seconds)

    def ages_seconds(self) -> dict[str, float]:
        """Return how long ago each part was last heard, by its name. For any thread."""
        heartbeats = {"event_loop": self._loop}
        heartbeats |= {name: part.heartbeat for name, part in self._parts.items()}
        now = self._clock()
        return {
            name: max(0.0, now - heard_at)
            for name, heartbeat in heartbeats.items()
            if (heard_at := heartbeat.heard_at) is not None
        }

    def silent(self) -> list[str]:
        """Return the names of the parts that have been silent for too long. For any thread."""
        return [name for name, age in self.ages_seconds().items() if age > SILENT_SECONDS]
