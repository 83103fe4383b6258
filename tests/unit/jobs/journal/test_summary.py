"""Figures of the journal, and the jobs that ended last."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.database import JOURNAL_NAME, encode_job, open_for_writing
from wasmdrop.jobs.journal.reader import JobFilter, JournalEntry, JournalReader
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import Slot

OPEN, DONE, LOST = JobState.QUEUED, JobState.DELIVERED, JobState.DISCARDED


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Give a journal without jobs."""
    connection = open_for_writing(tmp_path / JOURNAL_NAME)
    yield connection
    connection.close()


def add(
    journal: sqlite3.Connection,
    number: int,
    state: JobState,
    code: Code | None = None,
    changed_ns: int = 0,
    **columns: object,
) -> None:
    """Add a job whose sequence is ``number``."""
    key = f"input-{number}.json"
    job = Job(f"job-{number}", Slot(key, f"/s/{key}", "/s", f"result-{number}"), number, state)
    row = {"seq": number, "id": job.id, "slot": key.encode(), "state": state, "code": code}
    row |= {"job": encode_job(job), "changed_ns": changed_ns or number} | columns
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    journal.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", list(row.values()))  # noqa: S608


def ids(entries: list[JournalEntry]) -> list[str]:
    """Return the ids of jobs."""
    return [entry.job.id for entry in entries]


def test_summary_counts_open_jobs_by_state_and_finds_the_oldest(
    journal: sqlite3.Connection, tmp_path: Path
) -> None:
    """In the order of the states of a job."""
    for number, state in enumerate(
        (DONE, JobState.RUNNING, OPEN, OPEN, JobState.WAITING, JobState.RUNNING), 1
    ):
        add(journal, number, state)
    with JournalReader(tmp_path) as reader:
        found = reader.summary(0).open
        assert reader.open_count() == 5
        assert ids(reader.open_jobs(JobFilter(frozenset({OPEN})), 9)) == ["job-3", "job-4"]
        assert reader.open_jobs(JobFilter(frozenset({DONE})), 9) == []
    assert [(each.state, each.count, each.oldest.id) for each in found] == [
        (OPEN, 2, "job-3"),
        (JobState.WAITING, 1, "job-5"),
        (JobState.RUNNING, 2, "job-2"),
    ]


def test_summary_counts_what_finished_since_then_by_code(
    journal: sqlite3.Connection, tmp_path: Path
) -> None:
    """Not what is open, even if it has a code already."""
    add(journal, 1, DONE, Code.TRAP, 99)
    add(journal, 2, DONE, Code.OK, 100)
    add(journal, 3, DONE, Code.EXIT, 101)
    add(journal, 4, LOST, Code.TRAP, 102)
    add(journal, 5, DONE, Code.TRAP, 103)
    add(journal, 6, JobState.EXECUTED, Code.TRAP, 104)
    add(journal, 7, LOST, None, 105)
    with JournalReader(tmp_path) as reader:
        summary = reader.summary(100)
        assert (summary.finished, summary.failed) == (5, {"trap": 2, "exit": 1})
        assert reader.summary(200).finished == 0
        assert reader.summary(200).failed == {}


def test_last_failures_are_those_that_ended_last_of_all_codes(
    journal: sqlite3.Connection, tmp_path: Path
) -> None:
    """The latest first."""
    for number, code in enumerate((Code.TRAP, Code.TRAP, Code.EXIT, Code.OK, Code.TRAP), 1):
        add(journal, number, DONE, code)
    add(journal, 6, JobState.EXECUTED, Code.TRAP)
    with JournalReader(tmp_path) as reader:
        assert ids(reader.last_failures(3)) == ["job-5", "job-3", "job-2"]


def test_last_finished_are_in_the_order_of_their_ends(
    journal: sqlite3.Connection, tmp_path: Path
) -> None:
    """A job that was dropped early may end late."""
    add(journal, 1, DONE, Code.OK, 30)
    add(journal, 2, DONE, Code.OK, 10)
    add(journal, 3, DONE, Code.TRAP, 20)
    add(journal, 4, OPEN, None, 40)
    with JournalReader(tmp_path) as reader:
        assert ids(reader.last_finished(JobFilter(), 2)) == ["job-1", "job-3"]
        wanted = JobFilter(codes=frozenset({Code.OK}))
        assert ids(reader.last_finished(wanted, 9)) == ["job-1", "job-2"]


def test_summary_of_kept_results_and_events(journal: sqlite3.Connection, tmp_path: Path) -> None:
    """The most frequent reason first."""
    for number, note in enumerate(("full", "gone", "gone", None), 1):
        add(journal, number, JobState.EXECUTED, Code.OK, kept_bytes=number, note=note)
    for number in (7, 5):
        journal.execute(
            "INSERT INTO events (job, slot, path, marker, created_ns, failures, due_ns)"
            " VALUES (?, '', '', '', ?, ?, 0)",
            (str(number), number, 10 - number),
        )
    with JournalReader(tmp_path) as reader:
        summary = reader.summary(0)
    kept, events = summary.undelivered, summary.events
    assert (kept.count, kept.size_bytes, kept.reasons) == (4, 10, ("gone", "full"))
    assert (events.count, events.created_ns, events.failures) == (2, 5, 5)
