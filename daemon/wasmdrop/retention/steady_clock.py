"""A clock for retention: it follows a jump ahead late, because a wrong one must remove nothing."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

_SECOND_NS: Final = 1_000_000_000


def _since_boot_ns() -> int:
    """Return a time that never jumps and counts suspension, too."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class SteadyClock:
    """Returns the wall-clock time, as it has been for ``window_seconds``.

    ``wall_ns`` and ``steady_ns`` return times in nanoseconds.
    """

    def __init__(
        self,
        window_seconds: float,
        wall_ns: Callable[[], int] = time.time_ns,
        steady_ns: Callable[[], int] = _since_boot_ns,
    ) -> None:
        self._window_ns = int(window_seconds * _SECOND_NS)
        self._wall_ns = wall_ns
        self._steady_ns = steady_ns
        self._seen: deque[tuple[int, int]] = deque()
        """Steady times, and how far the wall clock was ahead of each."""

    def now_ns(self) -> int:
        """Return the earliest time that the wall clock of the last window amounts to.

        Return 0 within the first window. Call it at least once in each.
        """
        steady_ns = self._steady_ns()
        self._seen.append((steady_ns, self._wall_ns() - steady_ns))
        begin_ns = steady_ns - self._window_ns
        while len(self._seen) > 1 and self._seen[1][0] <= begin_ns:
            self._seen.popleft()
        if self._seen[0][0] > begin_ns:
            return 0
        return steady_ns + min(ahead_ns for _steady_ns, ahead_ns in self._seen)
