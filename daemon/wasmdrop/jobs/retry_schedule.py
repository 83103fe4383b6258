"""The schedule of undelivered results: which are kept, and when each is retried.

In memory, kept results are a small record. Directories take turns. Within one directory,
results that failed again wait longer. No I/O, no event loop: times are seconds of any monotonic
clock.
"""

import heapq
import itertools
import random
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from wasmdrop.jobs.job import Job
from wasmdrop.protocol.limits import MEBIBYTE

#: Pauses between two attempts, in seconds: the first one at most, and the longest. Short enough
#: that a disk that has room again is used soon.
_FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 15.0
_MOST_DOUBLINGS: Final = 16

#: With many results, pauses are longer: failing attempts make no more than so many a second, and
#: read no more than so many bytes a second.
_ATTEMPTS_PER_SECOND: Final = 50
_BYTES_PER_SECOND: Final = 4 * MEBIBYTE


@dataclass(slots=True)
class KeptResults:
    """The results of one slot's job."""

    job_id: str
    slot_key: str
    directory: "ResultDirectory"
    size_bytes: int
    finished_at_ns: int
    failures: int = 0
    is_checked: bool = True
    """Whether its output files are as this daemon left them: a power cut may have lost some."""
    is_busy: bool = False
    """Whether a delivery is under way, so that they can't be discarded."""
    is_gone: bool = False

    @property
    def may_be_discarded(self) -> bool:
        """Whether nothing is under way with them."""
        return not self.is_busy and not self.is_gone


@dataclass(slots=True)
class ResultDirectory:
    """The slots of one directory that have kept results."""

    path: str
    kept: dict[str, KeptResults] = field(default_factory=dict)
    due: list[tuple[float, int, KeptResults]] = field(default_factory=list)
    """A heap: what to retry when."""
    failures: int = 0
    is_scheduled: bool = False

    def next_due(self) -> KeptResults | None:
        """Remove and return the results to retry next."""
        while self.due:
            kept = heapq.heappop(self.due)[2]
            if not kept.is_gone:
                return kept
        return None


class RetrySchedule:
    """All kept results, and the order in which they are retried."""

    def __init__(self, most_jobs: int, most_bytes: int) -> None:
        self.most_jobs = most_jobs
        self.most_bytes = most_bytes
        self._kept: OrderedDict[str, KeptResults] = OrderedDict()
        """By slot, the oldest first."""
        self.count = 0
        self.size_bytes = 0
        self._directories: dict[str, ResultDirectory] = {}
        self._turns: list[tuple[float, int, ResultDirectory]] = []
        """A heap: which directory to retry when."""
        self._serial = itertools.count()

    def holds(self, slot_key: str) -> bool:
        """Whether results of this slot are kept, so that its other jobs must wait."""
        return slot_key in self._kept

    def add(self, job: Job, size_bytes: int) -> KeptResults:
        """Keep the results of a job."""
        path = job.slot.directory
        directory = self._directories.get(path)
        if directory is None:
            directory = self._directories[path] = ResultDirectory(path)
        finished_ns = job.finished_at_ns or time.time_ns()
        kept = KeptResults(job.id, job.slot.key, directory, 0, finished_ns)
        self._kept[kept.slot_key] = directory.kept[kept.slot_key] = kept
        self.count += 1
        self.grow(kept, size_bytes)
        return kept

    def grow(self, kept: KeptResults, size_bytes: int) -> None:
        """Add to the size of results."""
        kept.size_bytes += size_bytes
        self.size_bytes += size_bytes

    def remove(self, kept: KeptResults) -> None:
        """Count and retry results no more; their slot is held until :meth:`release`."""
        kept.is_gone = True
        directory = kept.directory
        del directory.kept[kept.slot_key]
        if not directory.kept:
            self._directories.pop(directory.path, None)
        self.count -= 1
        self.grow(kept, -kept.size_bytes)

    def release(self, kept: KeptResults) -> None:
        """Hold the slot no more."""
        del self._kept[kept.slot_key]

    # Bounds

    @property
    def is_over(self) -> bool:
        """Whether more is kept than the bounds allow."""
        return self.count > self.most_jobs or self.size_bytes > self.most_bytes

    @property
    def why_over(self) -> str:
        """Why the oldest results are discarded, for people."""
        return (
            f"{self.count} undelivered results of {self.size_bytes} bytes are more than"
            f" WASMDROP_UNDELIVERED_JOBS ({self.most_jobs}) or WASMDROP_UNDELIVERED_MB"
            f" ({self.most_bytes // MEBIBYTE}) allow, and this one is the oldest"
        )

    def oldest(self) -> KeptResults | None:
        """Return the oldest results that can be discarded."""
        return next((kept for kept in self._kept.values() if kept.may_be_discarded), None)

    # Turns

    def schedule(self, kept: KeptResults, at: float) -> None:
        """Retry results at that time."""
        if kept.is_gone:
            return
        directory = kept.directory
        heapq.heappush(directory.due, (at, next(self._serial), kept))
        if not directory.is_scheduled:
            self._schedule_directory(directory, directory.due[0][0])

    def put_back(self, kept: KeptResults) -> None:
        """Let results keep their place in their directory, which failed as a whole."""
        heapq.heappush(kept.directory.due, (0.0, next(self._serial), kept))

    def end_turn(self, directory: ResultDirectory, at: float) -> None:
        """Give a directory its next turn at that time, or when its next results are due."""
        directory.is_scheduled = False
        if directory.due:
            self._schedule_directory(directory, max(at, directory.due[0][0]))

    def _schedule_directory(self, directory: ResultDirectory, at: float) -> None:
        directory.is_scheduled = True
        heapq.heappush(self._turns, (at, next(self._serial), directory))

    @property
    def next_at(self) -> float | None:
        """When the next directory has its turn."""
        return self._turns[0][0] if self._turns else None

    def next_directory(self, now: float) -> ResultDirectory | None:
        """Remove and return a directory whose turn it is; :meth:`end_turn` must follow."""
        if not self._turns or self._turns[0][0] > now:
            return None
        return heapq.heappop(self._turns)[2]

    def pause_seconds(self, failures: int) -> float:
        """Return a random pause that grows with the failures and with all that is kept."""
        longest = max(
            LONGEST_PAUSE_SECONDS,
            self.count / _ATTEMPTS_PER_SECOND,
            self.size_bytes / _BYTES_PER_SECOND,
        )
        pause = min(longest, _FIRST_PAUSE_SECONDS * 2 ** min(failures, _MOST_DOUBLINGS))
        return random.uniform(pause / 2, pause)  # noqa: S311 - nothing depends on it
