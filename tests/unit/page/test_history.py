"""The history of the last hour: rates, latencies and bounds."""

from typing import Final

from wasmdrop.jobs.metrics import Metrics
from wasmdrop.page.history import JobHistory
from wasmdrop.protocol.outcome import Code

SECOND_NS: Final = 1_000_000_000


class Clock:
    """The time of day, which a test sets."""

    def __init__(self) -> None:
        self.seconds = 1000

    def __call__(self) -> int:
        """Return nanoseconds since 1970."""
        return self.seconds * SECOND_NS


class Sampled:
    """A history of counters that a test sets."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.clock = Clock()
        self.history = JobHistory(self.metrics, self.clock)

    def after(self, seconds: int) -> None:
        """Take a sample after that time."""
        self.clock.seconds += seconds
        self.history.sample()


def test_history_sample_has_rates_and_latencies_of_its_period() -> None:
    """Not of those before; without a job there is no latency."""
    it = Sampled()
    it.metrics.jobs[Code.OK] += 10
    it.metrics.jobs[Code.TRAP] += 3
    it.metrics.jobs[Code.TIMEOUT] += 2
    for number in range(100):
        it.history.delivered(float(number))
    it.metrics.running = 2
    it.after(5)
    it.metrics.jobs[Code.OK] += 1
    it.history.delivered(0.25)
    it.after(10)
    it.after(5)
    found = it.history.answer(0)
    assert found.times == (1005, 1015, 1020)
    assert found.succeeded == (2.0, 0.1, 0.0)
    assert found.failed == (1.0, 0.0, 0.0)
    assert found.p50_seconds == (50.0, 0.25, None)
    assert found.p95_seconds == (95.0, 0.25, None)
    assert found.running == (2, 2, 2)
    assert found.queued == (0, 0, 0)


def test_history_answer_has_the_samples_after_a_time() -> None:
    """None without newer ones."""
    it = Sampled()
    for _ in range(3):
        it.after(5)
    assert it.history.answer(1005).times == (1010, 1015)
    assert it.history.answer(1015).times == ()
    assert it.history.answer(-1).times == (1005, 1010, 1015)


def test_history_is_bounded() -> None:
    """An hour, and a limited number of latencies of a period."""
    it = Sampled()
    for _ in range(1000):
        it.after(5)
    assert len(it.history.answer(0).times) == 720
    for _ in range(100_000):
        it.history.delivered(1.0)
    assert len(it.history._latencies) == 65_536


def test_history_clock_that_was_set_back_gives_no_negative_rates() -> None:
    """All samples are returned then."""
    it = Sampled()
    it.after(5)
    it.metrics.jobs[Code.OK] += 5
    it.after(-100)
    found = it.history.answer(1005)
    assert found.times == (1005, 905)
    assert min(found.succeeded) >= 0
