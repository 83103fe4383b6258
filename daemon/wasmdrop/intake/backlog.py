"""Bounds how many accepted jobs are open at a time; other drops stay in their files."""

import threading
from collections.abc import Callable
from typing import Final

#: Open jobs per worker beyond which the daemon trades latency for throughput: this many take
#: longer than any pause that is made for batching.
_BUSY_JOBS_PER_WORKER: Final = 8


#: The same for jobs on their way, of which there are never many more than workers.
_BUSY_ACTIVE_JOBS: Final = 32

#: With shares, the open jobs that one top directory may have for each one that there is room for.
#: One that drops without end gets eight ninths of the backlog, and others find room in the rest.
_SHARE: Final = 8


class Backlog:
    """Counts open jobs: at most ``limit`` of them come from drops. Thread-safe.

    ``has_shares``: whether the drops of one top directory may not fill it.
    """

    def __init__(self, limit: int, workers: int = 1, *, has_shares: bool = False) -> None:
        self.limit = limit
        self._busy = _BUSY_JOBS_PER_WORKER * workers
        self._count = 0
        self._by_top: dict[str, int] | None = {} if has_shares else None
        self._count_active: Callable[[], int] | None = None
        self._lock = threading.Lock()
        self._has_refused = False
        self._is_paused = False

    def __len__(self) -> int:
        return self._count

    def is_busy(self) -> bool:
        """Return whether so many jobs are open that batching costs none of them time."""
        if self._count_active is None:
            return self._count > self._busy
        return self._count_active() > min(self._busy, _BUSY_ACTIVE_JOBS)

    def judge_by_active(self, count_active: Callable[[], int]) -> None:
        """Count only jobs on their way for :meth:`is_busy`: the others may wait for their limit."""
        self._count_active = count_active

    def take(self, top: str = "") -> bool:
        """Count one more drop of a top directory; return False if there is no room for it."""
        with self._lock:
            if self._count >= self.limit or self._is_paused or self._has_its_share(top):
                self._has_refused = True
                return False
            self._add(top, 1)
            return True

    def has_room(self) -> bool:
        """Return whether there is room for a job that :meth:`add` counts: drops need the rest."""
        if self._by_top is None:
            return self._count < self.limit
        return self._count < _SHARE * (self.limit - self._count)

    def add(self, top: str = "") -> None:
        """Count a job that no file could bring back later, whatever the limit."""
        with self._lock:
            self._add(top, 1)

    def pause(self) -> None:
        """Refuse all drops until :meth:`resume`."""
        self._is_paused = True

    def resume(self) -> None:
        """Accept drops again; the caller scans for those that were refused."""
        self._is_paused = False

    def done(self, top: str = "") -> bool:
        """Count one job less; return True if it is time to scan for drops that were refused."""
        with self._lock:
            self._add(top, -1)
            # Only at half of the limit, so that a scan finds room for many drops.
            if self._has_refused and self._count <= self.limit // 2:
                self._has_refused = False
                return True
            return False

    def _has_its_share(self, top: str) -> bool:
        if self._by_top is None:
            return False
        return self._by_top.get(top, 0) >= _SHARE * (self.limit - self._count)

    def _add(self, top: str, jobs: int) -> None:
        self._count += jobs
        if self._by_top is not None:
            count = self._by_top.pop(top, 0) + jobs
            if count:
                self._by_top[top] = count
