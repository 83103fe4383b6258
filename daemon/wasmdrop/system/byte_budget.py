"""A budget for bytes in memory."""

import threading
from collections.abc import Callable


class Reservation:
    """Reserved bytes of a budget. Any thread may release them."""

    def __init__(self, budget: "ByteBudget", size_bytes: int) -> None:
        self._budget = budget
        self._size_bytes = size_bytes

    def release(self) -> None:
        """Release the bytes. Further calls do nothing."""
        size_bytes, self._size_bytes = self._size_bytes, 0
        if size_bytes:
            self._budget._release(size_bytes)  # noqa: SLF001 - same module


class ByteBudget:
    """Allows reservations of ``total_bytes`` together, or a single larger one.

    ``on_release`` is called on any thread when bytes are released. Thread-safe.
    """

    def __init__(self, total_bytes: int, on_release: Callable[[], None]) -> None:
        self._total_bytes = total_bytes
        self._on_release = on_release
        self._used_bytes = 0
        self._lock = threading.Lock()

    @property
    def is_unused(self) -> bool:
        """Whether nothing is reserved. Any reservation then succeeds."""
        return self._used_bytes == 0

    def reserve(self, size_bytes: int) -> Reservation | None:
        """Reserve bytes; return None if the budget has too few left."""
        with self._lock:
            if self._used_bytes and self._used_bytes + size_bytes > self._total_bytes:
                return None
            self._used_bytes += size_bytes
        return Reservation(self, size_bytes)

    def _release(self, size_bytes: int) -> None:
        with self._lock:
            self._used_bytes -= size_bytes
        self._on_release()
