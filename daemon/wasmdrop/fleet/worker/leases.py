"""Extend the leases of the jobs in hand, so that no other worker gets them meanwhile."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from wasmdrop.fleet.transport.connection import Lease

#: Interval of extensions, in seconds. The server gives a lease of ten.
EXTEND_SECONDS: Final = 3.0

_TICK_SECONDS: Final = 0.5


class HeldLease:
    """A lease that is extended until ``ends_at``, by the clock of its keeper."""

    def __init__(self, lease: Lease, now: float, seconds: float) -> None:
        self.lease = lease
        self.extended_at = now
        self.ends_at = now + seconds


class LeaseKeeper:
    """Extends leases from their receipt on, until they are dropped or have lasted long enough.

    One task serves all leases, so that a job of milliseconds costs no timer. ``clock``: a monotonic
    clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._held: dict[HeldLease, None] = {}

    def hold(self, lease: Lease, seconds: float) -> HeldLease:
        """Extend a lease until it is dropped, for at most so many seconds."""
        held = HeldLease(lease, self.clock(), seconds)
        self._held[held] = None
        return held

    def drop(self, held: HeldLease) -> None:
        """Extend a lease no more."""
        self._held.pop(held, None)

    async def run(self) -> None:
        """Extend leases until cancelled."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            await self.extend_due()

    async def extend_due(self) -> None:
        """Extend each lease that was not extended for a while, unless it has lasted long enough."""
        for held in list(self._held):
            now = self.clock()
            if now < held.ends_at and now - held.extended_at >= EXTEND_SECONDS:
                held.extended_at = now
                await held.lease.extend()
