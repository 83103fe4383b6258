"""The schedule of undelivered results: bounds, turns and pauses, without a clock."""

import pytest

from tests.unit.jobs.fakes import job
from wasmdrop.jobs.retry_schedule import LONGEST_PAUSE_SECONDS, KeptResults, RetrySchedule


def keep(schedule: RetrySchedule, key: str, size_bytes: int = 10, at: float = 0.0) -> KeptResults:
    """Keep results and schedule their retry."""
    kept = schedule.add(job(key, key), size_bytes)
    schedule.schedule(kept, at)
    return kept


def retry_all(schedule: RetrySchedule, now: float) -> list[str]:
    """Give every directory its turns until none has one; return the slots in order."""
    retried = []
    while (directory := schedule.next_directory(now)) is not None:
        kept = directory.next_due()
        if kept is not None:
            retried.append(kept.slot_key)
        schedule.end_turn(directory, now)
    return retried


def test_retry_schedule_directories_take_turns() -> None:
    """One with many results does not delay the others."""
    schedule = RetrySchedule(100, 10_000)
    for number in range(4):
        keep(schedule, f"many/input-{number}.json")
    keep(schedule, "few/input.json")
    order = retry_all(schedule, 1.0)
    assert order.index("few/input.json") == 1
    assert len(order) == 5


def test_retry_schedule_result_is_retried_when_it_is_due() -> None:
    """One that failed often waits longer than the others of its directory."""
    schedule = RetrySchedule(100, 10_000)
    keep(schedule, "a/input-soon.json", at=5.0)
    keep(schedule, "a/input-late.json", at=50.0)
    assert schedule.next_at == 5.0
    assert schedule.next_directory(4.0) is None
    assert retry_all(schedule, 5.0) == ["a/input-soon.json"]
    assert schedule.next_at == 50.0
    assert retry_all(schedule, 50.0) == ["a/input-late.json"]


def test_retry_schedule_directory_that_fails_keeps_the_order_of_its_results() -> None:
    """The result whose turn it was comes first again."""
    schedule = RetrySchedule(100, 10_000)
    first = keep(schedule, "a/input-1.json", at=1.0)
    keep(schedule, "a/input-2.json", at=1.0)
    directory = schedule.next_directory(1.0)
    assert directory is not None
    assert directory.next_due() is first
    schedule.put_back(first)
    schedule.end_turn(directory, 10.0)
    assert schedule.next_at == 10.0
    assert retry_all(schedule, 10.0) == ["a/input-1.json", "a/input-2.json"]


def test_retry_schedule_removed_results_hold_their_slot_until_released() -> None:
    """They are neither counted nor retried any more."""
    schedule = RetrySchedule(100, 10_000)
    kept = keep(schedule, "a/input.json")
    schedule.remove(kept)
    assert (schedule.count, schedule.size_bytes) == (0, 0)
    assert schedule.holds("a/input.json")
    assert retry_all(schedule, 1.0) == []
    schedule.schedule(kept, 0.0)
    schedule.put_back(kept)
    assert retry_all(schedule, 1.0) == []
    schedule.release(kept)
    assert not schedule.holds("a/input.json")


@pytest.mark.parametrize(("most_jobs", "most_bytes"), [(2, 10_000), (100, 25)])
def test_retry_schedule_over_a_bound_names_the_oldest_idle_results(
    most_jobs: int, most_bytes: int
) -> None:
    """Results that are being delivered can't be discarded."""
    schedule = RetrySchedule(most_jobs, most_bytes)
    first = keep(schedule, "a/input.json")
    second = keep(schedule, "b/input.json")
    assert not schedule.is_over
    keep(schedule, "c/input.json")
    assert schedule.is_over
    assert schedule.oldest() is first
    first.is_busy = True
    assert schedule.oldest() is second
    schedule.remove(second)
    assert not schedule.is_over


def test_retry_schedule_pause_grows_with_failures_and_with_all_results() -> None:
    """Up to a limit that depends on how much is kept."""
    schedule = RetrySchedule(10_000, 10**12)
    assert schedule.pause_seconds(0) <= 0.1
    assert 0.2 <= schedule.pause_seconds(2) <= 0.4
    assert LONGEST_PAUSE_SECONDS / 2 <= schedule.pause_seconds(100) <= LONGEST_PAUSE_SECONDS
    for number in range(2000):
        keep(schedule, f"{number}/input.json")
    assert schedule.pause_seconds(100) > LONGEST_PAUSE_SECONDS
