"""The clock of retention: a wall clock that jumps ahead ages nothing at once."""

from wasmdrop.retention.steady_clock import SteadyClock

SECOND: int = 1_000_000_000
NOON: int = 1_800_000_000 * SECOND


class Times:
    """Settable clocks."""

    def __init__(self) -> None:
        self.wall_ns = NOON
        self.steady_ns = 5 * SECOND
        self.clock = SteadyClock(60.0, lambda: self.wall_ns, lambda: self.steady_ns)

    def pass_time(self, seconds: int) -> None:
        """Let time pass on both clocks."""
        self.wall_ns += seconds * SECOND
        self.steady_ns += seconds * SECOND


def test_clock_within_the_first_window_is_not_trusted() -> None:
    """It may have been wrong since the start."""
    times = Times()
    assert times.clock.now_ns() == 0
    times.pass_time(59)
    assert times.clock.now_ns() == 0
    times.pass_time(1)
    assert times.clock.now_ns() == NOON + 60 * SECOND


def test_clock_that_jumps_ahead_is_followed_after_a_window() -> None:
    """Until then, time goes on as before."""
    times = Times()
    times.clock.now_ns()
    times.pass_time(60)
    times.wall_ns += 10_000 * SECOND
    assert times.clock.now_ns() == NOON + 60 * SECOND
    times.pass_time(30)
    assert times.clock.now_ns() == NOON + 90 * SECOND
    times.pass_time(60)
    assert times.clock.now_ns() == times.wall_ns


def test_clock_that_jumps_back_is_followed_at_once() -> None:
    """Nothing is removed for a while."""
    times = Times()
    times.clock.now_ns()
    times.pass_time(60)
    times.wall_ns -= 10_000 * SECOND
    assert times.clock.now_ns() == times.wall_ns
