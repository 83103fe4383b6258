"""Histograms of durations, in the form of Prometheus."""

from bisect import bisect_left
from typing import Final

#: Upper bounds of the histogram buckets: from the run of a warm job to the longest default limit.
BOUNDS_SECONDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


class Histogram:
    """Counts durations by bucket of `BOUNDS_SECONDS`, and sums them."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        """By bucket, not cumulative; the last bucket has no upper bound."""
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration; a negative one, after a clock change, counts as 0."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds
