"""Admission: which slot's job begins next, and whether there is room for it.

Bounds the jobs on their way and the memory for their inputs and results. Jobs with large inputs
alternate with the others, so that neither kind waits for the other.
"""

from typing import Final

from wasmdrop.jobs.fair_queue import FairQueue
from wasmdrop.protocol.limits import MEBIBYTE

#: Jobs on their way, beyond those that run: enough to keep a disk busy with deliveries, few enough
#: to bound memory.
_EXTRA_JOBS: Final = 64

#: Inputs and results in memory, in bytes, past which no job with a large input begins, and past
#: which no job begins: a few of the largest by default.
_LARGE_STOP_BYTES: Final = 16 * MEBIBYTE
_STOP_BYTES: Final = 64 * MEBIBYTE

#: Inputs up to this size, in bytes, are small.
_SMALL_INPUT_BYTES: Final = 64 * 1024


class Admission:
    """Slots whose next job can begin, in a fair order; used from one event loop."""

    def __init__(self, workers: int) -> None:
        self._small = FairQueue()
        self._large = FairQueue()
        self._is_larges_turn = False
        self._room = workers + _EXTRA_JOBS
        self._bytes = 0

    def add(self, key: str, input_bytes: int) -> None:
        """Add a slot whose next job has an input of that size."""
        (self._large if input_bytes > _SMALL_INPUT_BYTES else self._small).add(key)

    def next(self) -> str | None:
        """Return the slot whose job is to begin; None if there is none, or no room for it."""
        if self._room <= 0 or self._bytes > _STOP_BYTES:
            return None
        self._is_larges_turn = not self._is_larges_turn
        may_be_large = bool(self._large) and self._bytes <= _LARGE_STOP_BYTES
        if may_be_large and (self._is_larges_turn or not self._small):
            return self._large.next()
        return self._small.next() if self._small else None

    def enter(self, input_bytes: int) -> None:
        """Count a job that is on its way."""
        self._room -= 1
        self._bytes += input_bytes

    def leave(self, input_bytes: int) -> None:
        """Count a job that is on its way no more, or waits for its module."""
        self._room += 1
        self._bytes -= input_bytes

    def hold(self, size_bytes: int) -> None:
        """Count results in memory; a negative size counts those that left it."""
        self._bytes += size_bytes
