"""The time that a download may take."""

import pytest

from wasmdrop.protocol.errors import FetchError
from wasmdrop.web.deadline import Deadline


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_deadline_wait_is_bounded_by_what_is_left() -> None:
    """At most half a minute, and never beyond the end."""
    clock = Clock()
    deadline = Deadline(100, clock, "--max-sec")
    assert deadline.next_wait_seconds() == 30
    clock.now += 90
    assert deadline.next_wait_seconds() == 10


def test_deadline_that_has_passed_is_an_error() -> None:
    """It names the flag."""
    clock = Clock()
    deadline = Deadline(100, clock, "--max-sec")
    clock.now += 100
    with pytest.raises(FetchError, match=r"not complete after 100 s \(--max-sec\)"):
        deadline.next_wait_seconds()


def test_deadline_error_says_which_time_was_over() -> None:
    """A server that is silent is another cause than one that is slow."""
    clock = Clock()
    deadline = Deadline(100, clock, "--max-sec")
    clock.now += 30
    assert str(deadline.error()) == "nothing arrived for 30 s"
    clock.now += 70
    assert str(deadline.error()) == "not complete after 100 s (--max-sec)"
