"""An scheduler: a thread that does what it was asked to at its time, several things in turns.

Each item is begun when it is due and goes on step by step, so that a long one lets those pass that
become due meanwhile. Few are under way at a time, and each once: what one that waits holds, above
all the descriptors of a walk, does not grow with what others ask for.
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

__all__ = ["ScanScheduler", "Steps"]

_log = structlog.get_logger()

#: Paths that wait; past that the item without a path stands for all of them.
_MOST_WAITING: Final = 10_000

#: Steps that an item gets as soon as it is due: most need no more.
_FIRST_STEPS: Final = 4

#: Items under way beyond those steps; others begin anew when one of them ends.
_MOST_UNDER_WAY: Final = 16

#: After how long an item that failed is begun again, in seconds.
_AGAIN_SECONDS: Final = 10.0


Steps = Generator[None, None, None]


@dataclass(slots=True)
class _Task:
    """An item under way."""

    item: str | None
    steps: Steps
    seconds: float = 0.0
    """What its steps took so far."""
    is_due_again: bool = False


class ScanScheduler:
    """Items are paths, each once at a time, and one without a path: ``None``.

    ``begin(item)`` returns the steps of an item, which the thread takes within ``context``.
    """

    def __init__(
        self,
        name: str,
        begin: Callable[[str | None], Steps],
        context: AbstractContextManager[None] | None = None,
    ) -> None:
        self.idle = threading.Event()
        """Set while nothing is due or under way."""
        self._begin = begin
        self._context = context or nullcontext()
        self._due: list[tuple[float, int, str]] = []
        self._serial = itertools.count()
        self._waiting: set[str] = set()
        self._walk_at: float | None = None
        """When the item without a path is due."""
        self._under_way: deque[_Task] = deque()
        self._later: OrderedDict[str | None, None] = OrderedDict()
        """Items that were longer than their first steps when there was no place for them."""
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"scan {name}", daemon=True)

    def schedule(self, seconds: float, path: str | None) -> None:
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
        with self._context:
            self._work()

    def _work(self) -> None:
        while not self._stopping:
            for item in self._next(may_wait=not self._under_way):
                self._begin_due(item)
            if self._under_way:
                task = self._under_way.popleft()
                if self._advance(task, 1):
                    self._under_way.append(task)
                elif self._later and len(self._under_way) < _MOST_UNDER_WAY:
                    item, _ = self._later.popitem(last=False)
                    self._under_way.append(_Task(item, self._begin(item)))

    def _begin_due(self, item: str | None) -> None:
        """Take the first steps of an item, and keep what is longer for later."""
        for task in self._under_way:
            if task.item == item:
                task.is_due_again = True
                return
        if item in self._later:
            return
        task = _Task(item, self._begin(item))
        if not self._advance(task, _FIRST_STEPS):
            return
        if item is None or len(self._under_way) < _MOST_UNDER_WAY:
            self._under_way.append(task)
            return
        task.steps.close()
        if len(self._later) < _MOST_WAITING:
            self._later[item] = None
        else:
            self.schedule(0.0, None)

    def _advance(self, task: "_Task", steps: int) -> bool:
        """Take some steps; False where the item has come to its end."""
        begun = time.monotonic()
        try:
            for _ in range(steps):
                next(task.steps)
        except StopIteration:
            task.seconds += time.monotonic() - begun
            if task.is_due_again:
                # After a pause, so that one item does not take all of the thread's time.
                self.schedule(task.seconds, task.item)
            return False
        except Exception:  # noqa: BLE001 - see the next line
            # The thread must live: it is what finds everything that the events missed.
            _log.exception("scan-failed", path=task.item)
            self.schedule(_AGAIN_SECONDS, task.item)
            return False
        task.seconds += time.monotonic() - begun
        return True

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
