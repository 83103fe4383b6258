"""Histograms of durations."""

from wasmdrop.system.histogram import BOUNDS_SECONDS, Histogram


def test_histogram_duration_on_a_bound_counts_below_it() -> None:
    """Prometheus' buckets include their upper bounds; negative durations count as 0."""
    histogram = Histogram()
    for seconds in (-1.0, BOUNDS_SECONDS[0], BOUNDS_SECONDS[1], BOUNDS_SECONDS[-1] + 1):
        histogram.observe(seconds)
    assert (histogram.counts[0], histogram.counts[1], histogram.counts[-1]) == (2, 1, 1)
    assert histogram.sum_seconds == sum((*BOUNDS_SECONDS[:2], BOUNDS_SECONDS[-1], 1))
