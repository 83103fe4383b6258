"""The history of the last hour: a sample every five seconds.

Samples are taken on the server's thread, so that the daemon's event loop does nothing for them and
a gap in its work shows. Reading counters of another thread gives recent values, but no consistent
snapshot of all.
"""

import asyncio
import bisect
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from wasmdrop.jobs.metrics import Metrics
from wasmdrop.page.model import History
from wasmdrop.protocol.marker import timestamp
from wasmdrop.protocol.outcome import Code

#: Time between samples, in seconds, and the number of samples: an hour.
PERIOD_SECONDS: Final = 5
_SAMPLES: Final = 720

#: Latencies of one period that are kept: more than jobs can end in it.
_LATENCIES: Final = 65_536

_DIGITS: Final = 3


class _Sample(NamedTuple):
    time: int
    succeeded: float
    failed: float
    p50_seconds: float | None
    p95_seconds: float | None
    queued: int
    running: int


class JobHistory:
    """Samples the counters of ``metrics``. ``clock`` returns nanoseconds since 1970."""

    def __init__(self, metrics: Metrics, clock: Callable[[], int] = time.time_ns) -> None:
        self._metrics = metrics
        self._clock = clock
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        """Of jobs that were delivered since the last sample; appended by the event loop's thread,
        emptied by this one."""
        self._sampled_at_ns = clock()
        self._succeeded, self._failed = self._counts()

    def delivered(self, seconds: float) -> None:
        """Note the latency of a delivered job. Called on the daemon's event loop, for each job."""
        self._latencies.append(seconds)

    async def keep_sampling(self) -> None:
        """Take samples until cancelled."""
        while True:
            # At full periods of the clock, so that samples of several daemons fit together.
            await asyncio.sleep(PERIOD_SECONDS - self._clock() / 1e9 % PERIOD_SECONDS)
            self.sample()

    def sample(self) -> None:
        """Take a sample."""
        now_ns = self._clock()
        succeeded, failed = self._counts()
        # A clock that was set back must not give negative rates.
        seconds = max((now_ns - self._sampled_at_ns) / 1e9, PERIOD_SECONDS / 2)
        latencies = sorted(self._latencies.popleft() for _ in range(len(self._latencies)))
        self._samples.append(
            _Sample(
                now_ns // 1_000_000_000,
                round((succeeded - self._succeeded) / seconds, _DIGITS),
                round((failed - self._failed) / seconds, _DIGITS),
                _quantile(latencies, 0.5),
                _quantile(latencies, 0.95),
                self._metrics.queued,
                self._metrics.running,
            )
        )
        self._sampled_at_ns, self._succeeded, self._failed = now_ns, succeeded, failed

    def answer(self, after: int) -> History:
        """Return the samples after a time in seconds since 1970."""
        samples = list(self._samples)
        # The clock may have been set back between two of them: then all are returned.
        times = [sample.time for sample in samples]
        first = bisect.bisect_right(times, after) if times == sorted(times) else 0
        columns = list(zip(*samples[first:], strict=True)) or [()] * len(_Sample._fields)
        return History(timestamp(self._clock()), PERIOD_SECONDS, *columns)

    def _counts(self) -> tuple[int, int]:
        jobs = self._metrics.jobs.copy()
        succeeded = jobs[Code.OK]
        return succeeded, sum(jobs.values()) - succeeded


def _quantile(ordered: list[float], share: float) -> float | None:
    """Return the smallest value that at least this share of all does not exceed."""
    if not ordered:
        return None
    return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 6)
