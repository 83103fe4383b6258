"""Admission: which slot's job begins next, and whether there is room for it.

Bounds the jobs on their way, in all and by top directory, and the memory for inputs and results.
Jobs with large inputs alternate with the others, so that neither kind waits for the other.

Jobs whose end is decided, because they were cancelled or refused, come first and need no room.
"""

from typing import Final

from wasmdrop.jobs.fair_queue import FairQueue
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import top_directory

#: Jobs on their way, beyond those that run: enough to keep a disk busy with deliveries, few enough
#: to bound memory.
_EXTRA_JOBS: Final = 64

#: Jobs on their way whose end is decided: few, because results of others wait behind theirs in the
#: delivery worker. Beside 16, other jobs took longer, and hardly more were refused a second.
_ENDING_JOBS: Final = 4

#: Inputs and results in memory, in bytes, past which no job with a large input begins, and past
#: which no job begins: a few of the largest by default.
_LARGE_STOP_BYTES: Final = 16 * MEBIBYTE
_STOP_BYTES: Final = 64 * MEBIBYTE

#: Inputs up to this size, in bytes, are small.
_SMALL_INPUT_BYTES: Final = 64 * 1024


class Admission:
    """Slots whose next job can begin, in a fair order; used from one event loop.

    ``directory_limit``: limit of the jobs of one top directory that are on their way.
    """

    def __init__(self, workers: int, directory_limit: int | None = None) -> None:
        self._small = FairQueue()
        self._large = FairQueue()
        self._cancelled = FairQueue()
        self._refused = FairQueue()
        self._is_larges_turn = False
        self._room = workers + _EXTRA_JOBS
        self._bytes = 0
        self._directory_limit = directory_limit
        self._on_their_way: dict[str, int] = {}
        """Jobs by top directory, if they are limited."""
        self._ending: set[str] = set()
        """Slots with a job on its way whose end was decided before."""

    def add(self, key: str, input_bytes: int, end: Code | None = None) -> None:
        """Add a slot whose next job has an input of that size; ``end``: how it ends, if decided."""
        if end is None:
            (self._large if input_bytes > _SMALL_INPUT_BYTES else self._small).add(key)
        else:
            # Cancelled jobs come before refused ones: a person may wait for them.
            (self._refused if end is Code.QUEUE_LIMIT else self._cancelled).add(key)

    def cancel(self, key: str) -> None:
        """Note that the next job of a slot was cancelled, if the slot waits here."""
        if self._small.remove(key) or self._large.remove(key):
            self._cancelled.add(key)

    def next(self) -> str | None:
        """Return the slot whose job is to begin; None if there is none, or no room for it.

        :meth:`enter` must follow.
        """
        ended = self._cancelled or self._refused
        if ended and len(self._ending) < _ENDING_JOBS:
            key = ended.next()
            self._ending.add(key)
            return key
        if self._room <= 0 or self._bytes > _STOP_BYTES:
            return None
        self._is_larges_turn = not self._is_larges_turn
        may_be_large = bool(self._large) and self._bytes <= _LARGE_STOP_BYTES
        if may_be_large and (self._is_larges_turn or not self._small):
            return self._large.next()
        return self._small.next() if self._small else None

    def enter(self, key: str, input_bytes: int) -> None:
        """Count the job of a slot that is on its way."""
        self._bytes += input_bytes
        if key in self._ending:
            return
        self._room -= 1
        if self._directory_limit is not None:
            top = top_directory(key)
            count = self._on_their_way[top] = self._on_their_way.get(top, 0) + 1
            if count == self._directory_limit:
                self._small.hold(top)
                self._large.hold(top)

    def leave(self, key: str, input_bytes: int) -> None:
        """Count a job that is on its way no more, or waits for its module."""
        self._bytes -= input_bytes
        if key in self._ending:
            self._ending.discard(key)
            return
        self._room += 1
        if self._directory_limit is not None:
            top = top_directory(key)
            count = self._on_their_way.pop(top)
            if count > 1:
                self._on_their_way[top] = count - 1
            if count == self._directory_limit:
                self._small.release(top)
                self._large.release(top)

    def lend(self, input_bytes: int) -> None:
        """Give the room of a job on its way to jobs of other top directories.

        If top directories have a limit, the job counts in its own all the same: its room can't be
        taken back from others then.
        """
        self._room += 1
        self._bytes -= input_bytes

    def take_back(self, input_bytes: int) -> None:
        """Count a job whose room was lent again, whether there is room or not."""
        self._room -= 1
        self._bytes += input_bytes

    def hold(self, size_bytes: int) -> None:
        """Count results in memory; a negative size counts those that left it."""
        self._bytes += size_bytes

    def is_held(self, key: str) -> bool:
        """Return whether the slot's directory has as many jobs on their way as it may have."""
        if self._directory_limit is None:
            return False
        return self._on_their_way.get(top_directory(key), 0) >= self._directory_limit

    def held_directories(self) -> int:
        """Return how many top directories have a job that waits only because of their limit.

        Thread-safe.
        """
        return len({*self._small.waiting_held(), *self._large.waiting_held()})
