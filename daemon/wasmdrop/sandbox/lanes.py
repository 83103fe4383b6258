"""Lanes: who may compute now, where some take a moment, others a minute, and nobody knows which.

Promises that few compute at a time, and that one that takes long does not keep the others waiting:
after a while it makes room for the next. Only where as many take long already does it stay in the
way.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

__all__ = ["Lanes"]


class Lanes:
    """Room for ``count`` that take a moment, and for as many that took ``quick_seconds``."""

    def __init__(self, count: int, quick_seconds: float) -> None:
        self._quick_seconds = quick_seconds
        self._quick = asyncio.Semaphore(count)
        self._long = asyncio.Semaphore(count)

    def are_full(self) -> bool:
        """Whether whoever comes now has to wait."""
        return self._quick.locked()

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for room and hold it for a block."""
        held = self._quick

        async def make_room() -> None:
            nonlocal held
            await asyncio.sleep(self._quick_seconds)
            await self._long.acquire()
            held.release()
            held = self._long

        await held.acquire()
        mover = asyncio.create_task(make_room())
        try:
            yield
        finally:
            mover.cancel()
            # Before anything is given back: it may be about to take the other one.
            await asyncio.wait([mover])
            held.release()
