"""A budget of bytes that are in memory: who finds none left leaves them where they are."""

import threading
from collections.abc import Callable

__all__ = ["ByteBudget", "Reservation"]


class Reservation:
    """Some bytes of a budget; given back once, by any thread."""

    def __init__(self, budget: "ByteBudget", size_bytes: int) -> None:
        self._budget = budget
        self._size_bytes = size_bytes

    def release(self) -> None:
        """Give the bytes back; nothing if that was done."""
        size_bytes, self._size_bytes = self._size_bytes, 0
        if size_bytes:
            self._budget._give_back(size_bytes)  # noqa: SLF001 - one module


class ByteBudget:
    """At most ``total_bytes`` are reserved at a time, or a single larger reservation.

    ``on_release`` is called, on any thread, when some were given back.
    """

    def __init__(self, total_bytes: int, on_release: Callable[[], None]) -> None:
        self._total_bytes = total_bytes
        self._on_release = on_release
        self._used_bytes = 0
        self._lock = threading.Lock()

    @property
    def is_unused(self) -> bool:
        """Whether nothing is reserved, so that any reservation succeeds."""
        return self._used_bytes == 0

    def reserve(self, size_bytes: int) -> Reservation | None:
        """Reserve bytes; None where they are not free."""
        with self._lock:
            if self._used_bytes and self._used_bytes + size_bytes > self._total_bytes:
                return None
            self._used_bytes += size_bytes
        return Reservation(self, size_bytes)

    def _give_back(self, size_bytes: int) -> None:
        with self._lock:
            self._used_bytes -= size_bytes
        self._on_release()
