"""Memory for inputs that were read and are not in the journal yet.

Inputs that find none stay on disk and wait in line, as paths. Small ones have room of their own,
and pass the large ones.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.system.byte_budget import ByteBudget, Reservation

__all__ = ["InputMemory", "InputMemoryFullError"]

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


class InputMemoryFullError(Exception):
    """There are as many inputs of a kind in memory as there may be; ``line`` waits for room."""

    def __init__(self, line: "_Line") -> None:
        super().__init__()
        self._line = line

    def await_room(self, path: str) -> None:
        """Have a path looked at again when another input leaves memory."""
        self._line.join(path)


class InputMemory:
    """Safe to use from several threads.

    ``recheck(path, seconds)`` is called with paths that waited, and with ``everything``, the
    directory of all of them, if there were too many to remember.
    """

    def __init__(self, recheck: Callable[[str, float], None], everything: str) -> None:
        self._small = _Line(_SMALL_BYTES, recheck, everything)
        self._large = _Line(_LARGE_BYTES, recheck, everything)
        self._apart = _Line(_LARGE_BYTES, recheck, everything)

    def reserve(self, size_bytes: int, *, is_apart: bool) -> Reservation:
        """Reserve memory for an input of that size. Raises ``InputMemoryFullError``.

        ``is_apart``: whether it is on another mount than most, which may hang while it is read.
        """
        large = self._apart if is_apart else self._large
        line = large if size_bytes > _SMALL_INPUT_BYTES else self._small
        memory = line.budget.reserve(size_bytes + _OVERHEAD_BYTES)
        if memory is None:
            raise InputMemoryFullError(line)
        return memory


class _Line:
    """Memory for inputs of one kind, and the paths of those that wait for it."""

    def __init__(
        self, total_bytes: int, recheck: Callable[[str, float], None], everything: str
    ) -> None:
        self.budget = ByteBudget(total_bytes, self._on_release)
        self._recheck = recheck
        self._everything = everything
        self._waiting: deque[str] = deque()
        self._are_more = False
        self._lock = threading.Lock()

    def join(self, path: str) -> None:
        with self._lock:
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append(path)
            else:
                self._are_more = True
        if self.budget.is_unused:
            self._on_release()  # the last one left before, so that nobody else will say so

    def _on_release(self) -> None:
        with self._lock:
            path = self._waiting.popleft() if self._waiting else None
            if path is None and self._are_more:
                self._are_more = False
                path = self._everything
        if path is not None:
            self._recheck(path, 0.0)
