"""Memory for inputs that were read and are not in the journal yet.

Inputs that find none stay on disk and wait in line, as paths. Small ones have room of their own,
and pass the large ones.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from wasmdrop.budget import ByteBudget, Reservation
from wasmdrop.limits import MEBIBYTE

__all__ = ["InputMemory", "NoMemoryError"]

#: Inputs in memory, in bytes; a larger one is taken alone. One of the largest by default: a
#: transaction of the journal then writes no more, and small ones wait for no more.
_LARGE_BYTES: Final = 16 * MEBIBYTE
_SMALL_BYTES: Final = 16 * MEBIBYTE

#: Inputs up to this size are small, in bytes.
_SMALL_INPUT_BYTES: Final = 64 * 1024

#: What an input takes besides its content, in bytes.
_OVERHEAD_BYTES: Final = 2048

#: Paths that wait in line; past that a walk through everything finds the others.
_MOST_WAITING: Final = 10_000


class NoMemoryError(Exception):
    """There are as many inputs in memory as there may be."""


class InputMemory:
    """Safe to use from several threads.

    ``look_again(path, seconds)`` is called with paths that waited, and with ``everything``, the
    directory of all of them, if there were too many to remember.
    """

    def __init__(self, look_again: Callable[[str, float], None], everything: str) -> None:
        self._look_again = look_again
        self._everything = everything
        self._large = ByteBudget(_LARGE_BYTES, self._on_release)
        self._small = ByteBudget(_SMALL_BYTES, self._on_release)
        self._waiting: deque[str] = deque()
        self._are_more = False
        self._lock = threading.Lock()

    def reserve(self, size_bytes: int) -> Reservation:
        """Reserve memory for an input of that size. Raises ``NoMemoryError``."""
        budget = self._large if size_bytes > _SMALL_INPUT_BYTES else self._small
        memory = budget.reserve(size_bytes + _OVERHEAD_BYTES)
        if memory is None:
            raise NoMemoryError
        return memory

    def await_room(self, path: str) -> None:
        """Have a path looked at again when another input leaves memory."""
        with self._lock:
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append(path)
            else:
                self._are_more = True
        if self._large.is_unused and self._small.is_unused:
            self._on_release()  # nobody else will say so

    def _on_release(self) -> None:
        with self._lock:
            path = self._waiting.popleft() if self._waiting else None
            if path is None and self._are_more:
                self._are_more = False
                path = self._everything
        if path is not None:
            self._look_again(path, 0.0)
