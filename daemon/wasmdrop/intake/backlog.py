"""Bounds how many accepted jobs are open at a time; other drops stay in their files."""

import threading
from typing import Final

#: Open jobs per worker beyond which the daemon trades latency for throughput: this many take
#: longer than any pause that is made for batching.
_BUSY_JOBS_PER_WORKER: Final = 8


class Backlog:
    """Counts open jobs: at most ``limit`` of them come from drops. Thread-safe."""

    def __init__(self, limit: int, workers: int = 1) -> None:
        self._limit = limit
        self._busy = _BUSY_JOBS_PER_WORKER * workers
        self._count = 0
        self._lock = threading.Lock()
        self._has_refused = False
        self._is_paused = False

    def __len__(self) -> int:
        return self._count

    def is_busy(self) -> bool:
        """Return whether so many jobs are open that batching costs none of them time."""
        return self._count > self._busy

    def take(self) -> bool:
        """Count one more drop; return False if there is no room for it."""
        with self._lock:
            if self._count >= self._limit or self._is_paused:
                self._has_refused = True
                return False
            self._count += 1
            return True

    def add(self) -> None:
        """Count a job that no file could bring back later, whatever the limit."""
        with self._lock:
            self._count += 1

    def pause(self) -> None:
        """Refuse all drops until :meth:`resume`."""
        self._is_paused = True

    def resume(self) -> None:
        """Accept drops again; the caller scans for those that were refused."""
        self._is_paused = False

    def done(self) -> bool:
        """Count one job less; return True if it is time to scan for drops that were refused."""
        with self._lock:
            self._count -= 1
            # Only at half of the limit, so that a scan finds room for many drops.
            if self._has_refused and self._count <= self._limit // 2:
                self._has_refused = False
                return True
            return False
