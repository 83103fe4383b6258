"""An agenda: a thread that does what it was asked to at its time, several things in turns.

Each item is begun when it is due and goes on step by step, so that a long one lets those pass that
become due meanwhile.
"""

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import structlog

__all__ = ["Agenda"]

_log = structlog.get_logger()

#: Paths that wait; past that the item without a path stands for all of them.
_MOST_WAITING: Final = 10_000

#: After how long an item that failed is begun again, in seconds.
_AGAIN_SECONDS: Final = 10.0


class Agenda:
    """Items are paths, each once at a time, and one without a path: ``None``.

    ``begin(item)`` returns the steps of an item.
    """

    def __init__(self, name: str, begin: Callable[[str | None], Iterator[None]]) -> None:
        self.idle = threading.Event()
        """Set while nothing is due or under way."""
        self._begin = begin
        self._due: list[tuple[float, int, str]] = []
        self._serial = itertools.count()
        self._waiting: set[str] = set()
        self._walk_at: float | None = None
        """When the item without a path is due."""
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"scan {name}", daemon=True)

    def appoint(self, seconds: float, path: str | None) -> None:
        """Begin ``path`` after ``seconds``, unless it waits already."""
        at = time.monotonic() + seconds
        with self._changed:
            if path in self._waiting:
                return
            if path is None or len(self._waiting) >= _MOST_WAITING:
                self._walk_at = at if self._walk_at is None else min(at, self._walk_at)
            else:
                self._waiting.add(path)
                heapq.heappush(self._due, (at, next(self._serial), path))
            self.idle.clear()
            self._changed.notify()

    def start(self) -> None:
        """Begin what is due, on a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no further step."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Wait for the end of the step that is under way, which may hang."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        under_way: deque[tuple[str | None, Iterator[None]]] = deque()
        while not self._stopping:
            for item in self._next(may_wait=not under_way):
                under_way.append((item, self._begin(item)))
            if under_way:
                item, steps = under_way.popleft()
                try:
                    next(steps)
                except StopIteration:
                    continue
                except Exception:  # noqa: BLE001 - see the next line
                    # The thread must live: it is what finds everything that the events missed.
                    _log.exception("scan-failed", path=item)
                    self.appoint(_AGAIN_SECONDS, item)
                    continue
                under_way.append((item, steps))

    def _next(self, *, may_wait: bool) -> list[str | None]:
        """Return the items that are due, after a wait for some where that is allowed."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                items: list[str | None] = []
                while self._due and self._due[0][0] <= now:
                    path = heapq.heappop(self._due)[2]
                    self._waiting.discard(path)
                    items.append(path)
                if self._walk_at is not None and self._walk_at <= now:
                    self._walk_at = None
                    items.append(None)
                if items or not may_wait:
                    return items
                times = [self._due[0][0]] if self._due else []
                times += [] if self._walk_at is None else [self._walk_at]
                self.idle.set()
                self._changed.wait(min(times) - now if times else None)
            return []
