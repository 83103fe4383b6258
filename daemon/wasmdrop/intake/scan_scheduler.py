"""The scheduler of scans on one mount: runs them on one thread, in small steps.

A scan starts when it is due and advances step by step, so that short scans overtake long ones. The
number of scans in progress is bounded, and so are the descriptors that they hold.
"""

import heapq
import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import structlog

_log = structlog.get_logger()

#: Most paths that wait. If there are more, the full scan stands for all of them.
_MAX_WAITING: Final = 10_000

#: Steps that a scan gets as soon as it is due: most need no more.
_FIRST_STEPS: Final = 4

#: Most scans in progress after those steps; others start again when one of them ends.
_MAX_IN_PROGRESS: Final = 16

#: Delay before a scan that failed is started again, in seconds.
_RETRY_SECONDS: Final = 10.0


Steps = Generator[None, None, None]


@dataclass(slots=True)
class _Scan:
    """A scan in progress."""

    path: str | None
    steps: Steps
    seconds: float = 0.0
    """Time that its steps took so far."""
    is_due_again: bool = False


class ScanScheduler:
    """Schedules scans of paths, each in progress once at a time, and the full scan: ``None``.

    ``begin(path)`` returns the steps of a scan, which the thread runs within ``context``.
    """

    def __init__(
        self,
        name: str,
        begin: Callable[[str | None], Steps],
        context: AbstractContextManager[None] | None = None,
    ) -> None:
        self.idle = threading.Event()
        """Set while no scan is due or in progress."""
        self._begin = begin
        self._context = context or nullcontext()
        self._due: list[tuple[float, int, str]] = []
        self._serial = itertools.count()
        self._waiting: set[str] = set()
        self._full_scan_at: float | None = None
        self._in_progress: deque[_Scan] = deque()
        self._postponed: OrderedDict[str | None, None] = OrderedDict()
        """Long scans that were due when too many were in progress."""
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"scan {name}", daemon=True)

    def schedule(self, seconds: float, path: str | None) -> None:
        """Scan ``path`` after ``seconds``, unless it waits already."""
        at = time.monotonic() + seconds
        with self._changed:
            if path in self._waiting:
                return
            if path is None or len(self._waiting) >= _MAX_WAITING:
                self._full_scan_at = (
                    at if self._full_scan_at is None else min(at, self._full_scan_at)
                )
            else:
                self._waiting.add(path)
                heapq.heappush(self._due, (at, next(self._serial), path))
            self.idle.clear()
            self._changed.notify()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Run no further step."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Wait for the step that runs now, which may hang, for that long."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        with self._context:
            while not self._stopping:
                self._run_once()

    def _run_once(self) -> None:
        """Start the scans that are due, and advance one of those in progress."""
        for path in self._next_due(may_wait=not self._in_progress):
            self._begin_due(path)
        if not self._in_progress:
            return
        scan = self._in_progress.popleft()
        if self._advance(scan, 1):
            self._in_progress.append(scan)
        elif self._postponed and len(self._in_progress) < _MAX_IN_PROGRESS:
            path, _ = self._postponed.popitem(last=False)
            self._in_progress.append(_Scan(path, self._begin(path)))

    def _begin_due(self, path: str | None) -> None:
        """Run the first steps of a scan; keep or postpone the rest."""
        for scan in self._in_progress:
            if scan.path == path:
                scan.is_due_again = True
                return
        if path in self._postponed:
            return
        scan = _Scan(path, self._begin(path))
        if not self._advance(scan, _FIRST_STEPS):
            return
        if path is None or len(self._in_progress) < _MAX_IN_PROGRESS:
            self._in_progress.append(scan)
            return
        scan.steps.close()
        if len(self._postponed) < _MAX_WAITING:
            self._postponed[path] = None
        else:
            self.schedule(0.0, None)

    def _advance(self, scan: _Scan, steps: int) -> bool:
        """Run some steps; return False if the scan has ended."""
        started = time.monotonic()
        try:
            for _ in range(steps):
                next(scan.steps)
        except StopIteration:
            scan.seconds += time.monotonic() - started
            if scan.is_due_again:
                # After a pause of the same length, so that one scan can't occupy the thread.
                self.schedule(scan.seconds, scan.path)
            return False
        except Exception:  # noqa: BLE001 - the thread must live: it finds what events missed
            _log.exception("scan-failed", path=scan.path)
            self.schedule(_RETRY_SECONDS, scan.path)
            return False
        scan.seconds += time.monotonic() - started
        return True

    def _next_due(self, *, may_wait: bool) -> list[str | None]:
        """Return the scans that are due; wait for some if that is allowed."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                paths: list[str | None] = []
                while self._due and self._due[0][0] <= now:
                    path = heapq.heappop(self._due)[2]
                    self._waiting.discard(path)
                    paths.append(path)
                if self._full_scan_at is not None and self._full_scan_at <= now:
                    self._full_scan_at = None
                    paths.append(None)
                if paths or not may_wait:
                    return paths
                times = [self._due[0][0]] if self._due else []
                times += [] if self._full_scan_at is None else [self._full_scan_at]
                self.idle.set()
                self._changed.wait(min(times) - now if times else None)
            return []
