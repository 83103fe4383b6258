"""Bounds the memory and the disk of large answers, from their arrival until they are delivered.

Many workers may answer at once. Each outcome may be as large as the output limit allows, the values
of a component take many times the size of their JSON, and output files are written to the state
directory first. Answers that find no room wait in their streams.
"""

import asyncio
import contextlib
from typing import Final

from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.system.byte_budget import ByteBudget, Reservation

#: Bytes of memory for a byte of a component's result while it is decoded: up to 82 were measured,
#: for a list of records that have an empty list each.
_VALUE_RATIO: Final = 100

#: What takes less is not counted.
_SMALL_BYTES: Final = 1 * MEBIBYTE

#: Large outcomes in memory, in bytes; a larger one is received alone. With as many results in
#: memory no job begins either (:mod:`wasmdrop.jobs.admission`).
_MEMORY_BYTES: Final = 64 * MEBIBYTE

#: Output files that were not delivered yet, in bytes; more are received alone.
_DISK_BYTES: Final = 1024 * MEBIBYTE


class AnswerRoom:
    """Room for large answers; used from one event loop."""

    def __init__(self) -> None:
        self._released = asyncio.Event()
        self._memory = ByteBudget(_MEMORY_BYTES, self._released.set)
        self._disk = ByteBudget(_DISK_BYTES, self._released.set)
        self._turns = {budget: asyncio.Lock() for budget in (self._memory, self._disk)}
        """First come, first served: small answers must not keep a large one out for ever."""

    @property
    def is_unused(self) -> bool:
        """Whether no large answer is here."""
        return self._memory.is_unused and self._disk.is_unused

    async def reserve(
        self, outcome_bytes: int, output_bytes: int, *, has_values: bool
    ) -> contextlib.ExitStack:
        """Wait until there is room for an answer; close the returned value to give it back.

        ``outcome_bytes``, ``output_bytes``: sizes of the encoded outcome and of the output files.
        ``has_values``: whether the outcome may have values of a component.
        """
        memory_bytes = outcome_bytes * (_VALUE_RATIO if has_values else 1)
        with contextlib.ExitStack() as held:
            # All in the same order: no two answers wait for each other.
            for budget, size_bytes in ((self._memory, memory_bytes), (self._disk, output_bytes)):
                if size_bytes > _SMALL_BYTES:
                    held.callback((await self._take(budget, size_bytes)).release)
            return held.pop_all()

    async def _take(self, budget: ByteBudget, size_bytes: int) -> Reservation:
        async with self._turns[budget]:
            while (reservation := budget.reserve(size_bytes)) is None:
                self._released.clear()
                await self._released.wait()
            return reservation
