"""Bounds the memory of large outcomes, from their arrival until they are delivered.

Many workers may answer at once. Each outcome may be as large as the output limit allows, and those
that find no room wait in their stream.
"""

import asyncio
from typing import Final

from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.system.byte_budget import ByteBudget, Reservation

#: Large outcomes in memory, in bytes; a larger one is received alone. With as many results in
#: memory no job begins either (:mod:`wasmdrop.jobs.admission`).
_TOTAL_BYTES: Final = 64 * MEBIBYTE


class AnswerMemory:
    """Memory for large outcomes; used from one event loop."""

    def __init__(self) -> None:
        self._released = asyncio.Event()
        self._budget = ByteBudget(_TOTAL_BYTES, self._released.set)

    @property
    def is_unused(self) -> bool:
        """Whether no large outcome is in memory."""
        return self._budget.is_unused

    async def reserve(self, size_bytes: int) -> Reservation:
        """Wait until there is room for an outcome of that size."""
        while (reservation := self._budget.reserve(size_bytes)) is None:
            self._released.clear()
            await self._released.wait()
        return reservation
