"""Bounds the memory of large outcomes, from their arrival until they are delivered.

Many workers may answer at once. Each outcome may be as large as the output limit allows, and the
values of a component take many times the size of their JSON. Answers that find no room wait in
their stream.
"""

import asyncio
from typing import Final

from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.system.byte_budget import ByteBudget, Reservation

#: Bytes of memory for a byte of a component's result while it is decoded: up to 82 were measured,
#: for a list of records that have an empty list each.
_VALUE_RATIO: Final = 100

#: Outcomes that take less are not counted.
_SMALL_BYTES: Final = 1 * MEBIBYTE

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

    async def reserve(self, outcome_bytes: int, *, has_values: bool) -> Reservation | None:
        """Wait until there is room for an encoded outcome; return None if it is small.

        ``has_values``: whether it may be that of a component.
        """
        size_bytes = outcome_bytes * (_VALUE_RATIO if has_values else 1)
        if size_bytes <= _SMALL_BYTES:
            return None
        while (reservation := self._budget.reserve(size_bytes)) is None:
            self._released.clear()
            await self._released.wait()
        return reservation
