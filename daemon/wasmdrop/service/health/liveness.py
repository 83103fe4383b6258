"""Liveness: each part of the daemon is pinged, and must answer.

A thread may be alive and yet do nothing, so a ping takes the path of real work: an event through
the kernel's queue for the watcher, a request for the journal, a packet for the fork server. The
event loop answers by running the task that pings the others.

A part is judged after its first answer only, so that one that can't answer here (without file
events, for example) does not count as stuck.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from wasmdrop.system.heartbeat import Heartbeat

_log = structlog.get_logger()

#: How long a part may be silent before it counts as stuck, in seconds. One sync of a bad disk can
#: take ten seconds; a restart would only add to the load.
SILENT_SECONDS: Final = 20.0

#: How often the parts are pinged, in seconds; a ping costs a thread a few microseconds.
_PERIOD_SECONDS: Final = 2.0


class Part(Protocol):
    """A part of the daemon that answers pings."""

    @property
    def heartbeat(self) -> Heartbeat:
        """Its heartbeat."""

    def ping(self) -> None:
        """Request a heartbeat without waiting for it. Called on the event loop."""


class Liveness:
    """The liveness of all ``parts``, by name, and of the event loop.

    ``tell_manager`` is called periodically unless a part is silent: it feeds the watchdog of a
    service manager. ``manager_seconds`` is the timeout of that watchdog.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        tell_manager: Callable[[], None],
        manager_seconds: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.has_watchdog = manager_seconds is not None
        """Whether a service manager has a watchdog."""
        self._parts = parts
        self._tell_manager = tell_manager
        self._clock = clock
        self._loop = Heartbeat()
        self._resumed_at = 0.0
        """When a pause of the whole process (SIGSTOP, a frozen container) ended, by the clock."""
        # sd_watchdog_enabled(3) recommends half of the timeout; a third suits a busy core.
        self._period_seconds = min(_PERIOD_SECONDS, (manager_seconds or _PERIOD_SECONDS * 3) / 3)

    async def keep_pinging(self) -> None:
        """Ping all parts periodically, until cancelled."""
        was_silent: set[str] = set()
        while True:
            if "event_loop" in self.silent():
                self._resumed_at = self._clock()  # no part was pinged meanwhile
            self._loop.beat()
            for part in self._parts.values():
                part.ping()
            silent = set(self.silent())
            for name in silent - was_silent:
                _log.error("part-silent", part=name, seconds=SILENT_SECONDS)
            was_silent = silent
            if not silent:
                self._tell_manager()
            await asyncio.sleep(self._period_seconds)

    def ages_seconds(self) -> dict[str, float]:
        """Return the age of each part's last heartbeat, by its name. Thread-safe.

        A pause of the whole process does not count.
        """
        heartbeats = {"event_loop": self._loop}
        heartbeats |= {name: part.heartbeat for name, part in self._parts.items()}
        now = self._clock()
        return {
            name: max(0.0, now - max(heard_at, self._resumed_at))
            for name, heartbeat in heartbeats.items()
            if (heard_at := heartbeat.heard_at) is not None
        }

    def silent(self) -> list[str]:
        """Return the names of the parts that are silent for too long. Thread-safe.

        None is before the first ping: without probes and a watchdog, nothing pings the parts.
        """
        if self._loop.heard_at is None:
            return []
        return [name for name, age in self.ages_seconds().items() if age > SILENT_SECONDS]
