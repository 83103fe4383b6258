"""Bounds the memory of inputs that were read and are not in the journal yet.

Inputs that find no room stay on disk, and their paths wait. Small inputs have a budget of their
own, and so overtake large ones.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.system.byte_budget import ByteBudget, Reservation

#: Budget of each kind of input; a larger input is taken alone. It is the default of
#: ``WASMDROP_MAX_INPUT_MB``: a transaction of the journal then writes no more than one large input.
_BUDGET_BYTES: Final = 16 * MEBIBYTE

#: Largest small input.
_SMALL_INPUT_BYTES: Final = 64 * 1024

#: What an input takes besides its content.
_OVERHEAD_BYTES: Final = 2048

#: Most paths that wait; a scan finds the others.
_MAX_WAITING: Final = 10_000


class InputMemoryFullError(Exception):
    """There is no memory for an input now."""

    def __init__(self, queue: "_InputQueue") -> None:
        super().__init__()
        self._queue = queue

    def await_room(self, path: str) -> None:
        """Have a path considered again when another input leaves memory."""
        self._queue.join(path)


class InputMemory:
    """Reserves memory for inputs. Thread-safe.

    ``recheck(path, seconds)`` is called with paths that waited, and with ``everything``, the
    directory of them all, if there were too many to remember.
    """

    def __init__(self, recheck: Callable[[str, float], None], everything: str) -> None:
        self._small = _InputQueue(recheck, everything)
        self._large = _InputQueue(recheck, everything)
        self._other_mounts = _InputQueue(recheck, everything)

    def reserve(self, size_bytes: int, *, is_other_mount: bool) -> Reservation:
        """Reserve memory for an input of that size. Raises ``InputMemoryFullError``.

        ``is_other_mount``: whether the input is on another mount than most, where reading may hang.
        """
        large = self._other_mounts if is_other_mount else self._large
        queue = large if size_bytes > _SMALL_INPUT_BYTES else self._small
        memory = queue.budget.reserve(size_bytes + _OVERHEAD_BYTES)
        if memory is None:
            raise InputMemoryFullError(queue)
        return memory


class _InputQueue:
    """Memory for inputs of one kind, and the paths of those that wait for it."""

    def __init__(self, recheck: Callable[[str, float], None], everything: str) -> None:
        self.budget = ByteBudget(_BUDGET_BYTES, self._on_release)
        self._recheck = recheck
        self._everything = everything
        self._waiting: deque[str] = deque()
        self._has_overflown = False
        self._lock = threading.Lock()

    def join(self, path: str) -> None:
        with self._lock:
            if len(self._waiting) < _MAX_WAITING:
                self._waiting.append(path)
            else:
                self._has_overflown = True
        if self.budget.is_unused:
            self._on_release()  # the last input left before, so that no other release will follow

    def _on_release(self) -> None:
        with self._lock:
            path = self._waiting.popleft() if self._waiting else None
            if path is None and self._has_overflown:
                self._has_overflown = False
                path = self._everything
        if path is not None:
            self._recheck(path, 0.0)
