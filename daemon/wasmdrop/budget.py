"""A budget of bytes that are in memory: who wants some waits, or leaves them where they are."""

import threading
import time

__all__ = ["ByteBudget", "Reservation"]


class Reservation:
    """Some bytes of a budget; given back once, by any thread."""

    def __init__(self, budget: "ByteBudget", size_bytes: int) -> None:
        self._budget = budget
        self._size_bytes = size_bytes

    def release(self) -> None:
        """Give the bytes back; nothing if that was done."""
        size_bytes, self._size_bytes = self._size_bytes, 0
        self._budget._give_back(size_bytes)  # noqa: SLF001 - one module


class ByteBudget:
    """At most ``total_bytes`` are reserved at a time, or a single larger reservation."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._used_bytes = 0
        self._freed = threading.Condition()

    def reserve(self, size_bytes: int, wait_seconds: float = 0.0) -> Reservation | None:
        """Reserve bytes; None where they are not free within ``wait_seconds``."""
        end = time.monotonic() + wait_seconds
        with self._freed:
            while self._used_bytes and self._used_bytes + size_bytes > self._total_bytes:
                left_seconds = end - time.monotonic()
                if left_seconds <= 0:
                    return None
                self._freed.wait(left_seconds)
            self._used_bytes += size_bytes
        return Reservation(self, size_bytes)

    def _give_back(self, size_bytes: int) -> None:
        with self._freed:
            self._used_bytes -= size_bytes
            self._freed.notify_all()
