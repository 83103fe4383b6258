"""The table of open jobs: their order in a slot, and their changes."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wasmdrop.jobs.job import DecidedEnd, IllegalMoveError, Job, JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.work_table import Work, WorkTable
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import InputFile, Slot

SLOT = Slot("a", "/a", "/", "result")


class FakeJournal:
    """Moves jobs without writing them."""

    def end(self, job: Job, end: DecidedEnd) -> tuple[Job, None]:
        """Decide how it ends."""
        return msgspec.structs.replace(job, end=end), None

    def move_lazily(self, job: Job, state: JobState, **changes: Any) -> Job:
        """Move it as the journal does."""
        return job.moved(state, **changes)


def new_table() -> WorkTable:
    """Return a table that writes nothing."""
    return WorkTable(FakeJournal())  # type: ignore[arg-type]


def work(number: int) -> Work:
    """Return a job of the slot."""
    return Work(Job(str(number), SLOT, number))


def begin_all(table: WorkTable, count: int) -> list[str]:
    """Begin and finish jobs one after the other; return their ids."""
    ids = []
    for _ in range(count):
        ids.append(table.begin("a").job.id)
        table.finish("a")
    return ids


def test_table_jobs_of_a_slot_begin_in_their_order() -> None:
    """However they come and go."""
    table = new_table()
    assert [table.add(work(number)) for number in range(3)] == [True, False, False]
    assert begin_all(table, 2) == ["0", "1"]
    table.add(work(3))
    assert begin_all(table, 2) == ["2", "3"]
    assert not table.waits("a")
    assert table.last_job("a") is None
    assert table.add(work(4))
    assert begin_all(table, 1) == ["4"]


def test_table_job_added_first_begins_before_those_that_wait() -> None:
    """Whether some do or not."""
    table = new_table()
    table.add_first(work(0))
    assert begin_all(table, 1) == ["0"]
    for number in (2, 3):
        table.add(work(number))
    table.add_first(work(1))
    table.add(work(4))
    assert begin_all(table, 4) == ["1", "2", "3", "4"]


def test_table_active_job_begins_again_and_blocks_its_slot() -> None:
    """A job that waited for its module stays the active one."""
    table = new_table()
    table.add(work(0))
    table.add(work(1))
    assert table.waits("a")
    assert table.begin("a") is table.begin("a")
    assert not table.waits("a")
    assert table.last_job("a") == work(1).job
    assert table.finish("a")
    assert table.first("a").job.id == "1"


def test_table_change_by_an_old_value_keeps_later_changes() -> None:
    """A stage may hold a value from before another stage changed it."""
    table = new_table()
    table.add(work(0))
    old = table.begin("a")
    table.evolve(old, compile_seconds=2.0)
    table.move(old, JobState.COMPILING)
    table.evolve(old, is_deterministic=True)
    current = table.current(old)
    assert (current.compile_seconds, current.is_deterministic) == (2.0, True)
    assert current.job.state is JobState.COMPILING
    assert old == work(0)


def test_table_has_a_job_until_it_leaves() -> None:
    """Also one that waits behind another, or was put before it."""
    table = new_table()
    for number in (0, 1):
        table.add(work(number))
    table.begin("a")
    table.add_first(work(2))
    ids = [work(number).job.id for number in (0, 1, 2)]
    assert [table.has(one) for one in [*ids, "another"]] == [True, True, True, False]
    table.finish("a")
    assert [table.has(one) for one in ids] == [False, True, True]
    table.begin("a")
    table.finish("a")
    assert [table.has(one) for one in ids] == [False, True, False]


def test_table_find_returns_a_job_wherever_it_is_in_its_slot() -> None:
    """Until it leaves; ids of no job are not found."""
    table = new_table()
    for number in range(4):
        table.add(work(number))
    table.begin("a")
    found = [table.find(str(number)) for number in range(5)]
    assert [one and one.job.id for one in found] == ["0", "1", "2", "3", None]
    table.finish("a")
    assert table.find("0") is None


def test_table_end_changes_wanted_jobs_that_have_no_other_end() -> None:
    """The active job, the next one and later ones; the order stays, and so do other slots."""
    table = new_table()
    other = DecidedEnd(Code.QUEUE_LIMIT, "too many")
    for number in range(5):
        table.add(work(number))
    table.add(Work(Job("5", SLOT, 5, end=other)))
    table.begin("a")
    end = DecidedEnd(Code.CANCELLED, "a test")
    assert table.end("b", end, lambda _job: True) == []
    ended = table.end("a", end, lambda job: job.id not in {"1", "3"})
    assert [(one.job.id, one.job.end) for one in ended] == [("0", end), ("2", end), ("4", end)]
    assert table.current(work(0)) is ended[0]
    ends = []
    for _ in range(6):
        ends.append(table.begin("a").job.end)
        table.finish("a")
    assert ends == [end, None, end, None, end, other]


def test_table_end_leaves_an_executed_job_alone() -> None:
    """It has an outcome."""
    table = new_table()
    table.add(work(0))
    table.move(table.begin("a"), JobState.EXECUTED)
    assert table.end("a", DecidedEnd(Code.CANCELLED, "a test"), lambda _job: True) == []


def test_table_illegal_move_is_refused() -> None:
    """And changes nothing."""
    table = new_table()
    table.add(work(0))
    active = table.begin("a")
    with pytest.raises(IllegalMoveError):
        table.move(active, JobState.DELIVERED)
    assert table.current(active) is active


def test_table_attempt_is_counted_and_becomes_durable(tmp_path: Path) -> None:
    """In the journal and in the value."""

    async def scenario() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        table = WorkTable(journal)
        job = Job("1", SLOT, 1, input=InputFile("/a", "", 2))
        table.add(Work(job, journal.accept(job, b"{}", {})))
        begun = table.begin_attempt(table.begin("a"), 5, is_remote=False)
        assert begun.begun is not None
        await begun.begun
        written = (await journal.load_job("1")).job
        assert (written.attempt, written.started_at_ns, written.state) == (1, 5, JobState.RUNNING)
        assert table.current(begun).job == written
        await journal.close()

    asyncio.run(scenario())
