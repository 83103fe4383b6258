"""The backlog: how many jobs are open, and what follows from that."""

import pytest

from wasmdrop.intake.backlog import Backlog


def test_take_at_the_limit_is_refused_until_a_scan_is_worth_it() -> None:
    """A scan is due once, when half of the limit is free."""
    backlog = Backlog(4)
    assert [backlog.take() for _ in range(5)] == [True, True, True, True, False]
    assert [backlog.done() for _ in range(3)] == [False, True, False]
    assert len(backlog) == 1
    assert backlog.take()


def test_done_without_refusal_asks_for_no_scan() -> None:
    """There is nothing to find."""
    backlog = Backlog(2)
    backlog.take()
    assert not backlog.done()


def test_add_at_the_limit_counts() -> None:
    """Such a job has no file that a later scan could find."""
    backlog = Backlog(1)
    backlog.take()
    backlog.add()
    assert len(backlog) == 2
    assert not backlog.take()


def test_take_while_paused_is_refused() -> None:
    """The refusal counts for the next scan."""
    backlog = Backlog(10)
    assert backlog.take()
    backlog.pause()
    assert not backlog.take()
    backlog.resume()
    assert backlog.take()
    assert backlog.done()


def test_is_busy_depends_on_the_jobs_per_worker() -> None:
    """The same number of jobs keeps few workers busy, and many not."""
    few, many = Backlog(1000, workers=2), Backlog(1000, workers=64)
    for _ in range(16):
        few.take()
        many.take()
    assert not few.is_busy()
    few.take()
    many.take()
    assert few.is_busy()
    assert not many.is_busy()


def test_take_of_one_directory_leaves_room_for_others() -> None:
    """Each gets at most a share of the room that is left."""
    backlog = Backlog(90, has_shares=True)
    assert sum(backlog.take("many") for _ in range(1000)) == 80
    assert sum(backlog.take("few") for _ in range(9)) == 9
    assert [backlog.done("many") for _ in range(80)].count(True) == 1
    assert sum(backlog.take("few") for _ in range(1000)) == 71


def test_take_without_shares_lets_one_directory_fill_the_backlog() -> None:
    """The limit is all there is."""
    backlog = Backlog(90)
    assert sum(backlog.take("many") for _ in range(1000)) == 90


@pytest.mark.parametrize(("workers", "most"), [(1, 8), (64, 32)])
def test_busy_by_active_jobs_ignores_jobs_that_wait(workers: int, most: int) -> None:
    """Many workers need no more of them than few: there is room for about as many."""
    active = [0] * most
    backlog = Backlog(1000, workers=workers)
    backlog.judge_by_active(lambda: len(active))
    for _ in range(1000):
        backlog.take()
    assert not backlog.is_busy()
    active.append(0)
    assert backlog.is_busy()


def test_room_for_reruns_is_less_than_for_drops_with_shares() -> None:
    """Reruns of one directory must not keep out the drops of others."""
    for has_shares, most in ((False, 90), (True, 80)):
        backlog = Backlog(90, has_shares=has_shares)
        while backlog.has_room():
            backlog.add("many")
        assert len(backlog) == most
        assert backlog.take("few") is has_shares
