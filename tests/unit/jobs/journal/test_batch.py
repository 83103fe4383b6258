"""Writes of one transaction: they act in order, and a final job keeps only what is needed."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.batch import Accepted, Moved, Remembered, perform
from wasmdrop.jobs.journal.database import open_for_writing
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import InputFile, Slot


def _job(number: int) -> Job:
    key = f"input-{number % 3}.json"
    slot = Slot(key, f"/shared/{key}", "/shared", f"result-{number % 3}")
    return Job(f"job-{number}", slot, 1, input=InputFile(slot.input_path, "0" * 64, 3))


def _ended(job: Job, state: JobState, code: Code) -> Moved:
    return Moved(msgspec.structs.replace(job, state=state, code=code), 2)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Open a new journal."""
    connection = open_for_writing(tmp_path / "journal.sqlite")
    yield connection
    connection.close()


def _rows(connection: sqlite3.Connection, columns: str) -> list[Any]:
    return connection.execute(f"SELECT {columns} FROM jobs ORDER BY seq").fetchall()  # noqa: S608


def test_batch_operation_between_writes_sees_those_before_it(
    connection: sqlite3.Connection,
) -> None:
    """Each result stands at the place of its operation; a move removes the note of one before."""
    job = _job(0)

    def note(connection: sqlite3.Connection) -> str:
        before = connection.execute("SELECT state FROM jobs").fetchone()[0]
        connection.execute("UPDATE jobs SET note = 'waits'")
        return str(before)

    moved = Moved(msgspec.structs.replace(job, state=JobState.WAITING), 2)
    results = perform(connection, [Accepted(job, b"in", {}, 1), note, moved, note])
    assert results == [None, "queued", None, "waiting"]
    assert perform(connection, [moved]) == [None]
    assert _rows(connection, "state, note, changed_ns") == [("waiting", None, 2)]


def test_batch_only_the_last_of_several_moves_of_a_job_is_written(
    connection: sqlite3.Connection,
) -> None:
    """Unless an operation between them may read what an earlier one wrote."""
    moves = [
        Moved(msgspec.structs.replace(_job(number), state=state), 2)
        for state in (JobState.WAITING, JobState.RUNNING, JobState.EXECUTED)
        for number in (0, 1)
    ]
    accepted = [Accepted(_job(number), b"in", {}, 1) for number in (0, 1)]
    written: list[str] = []
    connection.set_trace_callback(written.append)
    results = perform(connection, [*accepted, *moves[:4], _states, *moves[4:], moves[4]])
    connection.set_trace_callback(None)
    assert results == [None] * 6 + [["running", "running"]] + [None] * 3
    assert _states(connection) == ["executed", "executed"]
    assert sum(statement.startswith("UPDATE jobs") for statement in written) == 4


def _states(connection: sqlite3.Connection) -> list[str]:
    return [state for (state,) in _rows(connection, "state")]


@pytest.mark.parametrize(
    ("data", "code", "kept"),
    [
        (b"in", Code.OK, None),
        (b"in", Code.TRAP, b"in"),
        (bytes(20_000), Code.TRAP, None),
        (None, Code.TRAP, None),
    ],
    ids=["ok", "failed", "failed-large", "failed-unread"],
)
def test_batch_final_job_keeps_input_only_if_failed_and_small(
    connection: sqlite3.Connection, data: bytes | None, code: Code, kept: bytes | None
) -> None:
    """The input of a failed job is there for a retry; a large one is not kept."""
    job = _job(0)
    perform(connection, [Accepted(job, data, {}, 1), _ended(job, JobState.EXECUTED, code)])
    assert _rows(connection, "input") == [(data,)]
    perform(connection, [_ended(job, JobState.DELIVERED, code)])
    assert _rows(connection, "input") == [(kept,)]


def test_batch_versions_taken_the_last_one_is_kept(connection: sqlite3.Connection) -> None:
    """An accepted job and a drop without a job record versions in the same table."""
    job = _job(0)
    accepted = Accepted(job, None, {"/a": b"1", "/b": b"1"}, 1)
    perform(connection, [accepted, Remembered({"/a": b"2"})])
    taken = connection.execute("SELECT path, version FROM taken ORDER BY path").fetchall()
    assert taken == [(b"/a", b"2"), (b"/b", b"1")]


def test_batch_failed_link_slot_awaits_module_until_its_next_job(
    connection: sqlite3.Connection,
) -> None:
    """A job that failed because of its module adds a row; the slot's next job removes it."""
    job, later = _job(0), _job(3)
    perform(
        connection, [Accepted(job, None, {}, 1), _ended(job, JobState.EXECUTED, Code.LINK_ERROR)]
    )
    assert connection.execute("SELECT job FROM awaiting").fetchall() == [("job-0",)]
    perform(connection, [Accepted(later, None, {}, 3)])
    assert connection.execute("SELECT job FROM awaiting").fetchall() == []
    perform(connection, [_ended(job, JobState.DELIVERED, Code.LINK_ERROR)])
    assert connection.execute("SELECT job FROM awaiting").fetchall() == []


def test_batch_final_job_loses_its_package_and_open_job_keeps_it() -> None:
    """Results that could not be delivered are kept until the job is final."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(
        "CREATE TABLE jobs (seq INTEGER PRIMARY KEY, id TEXT UNIQUE, slot, state, code, job,"
        " input, package, changed_ns, note, kept_bytes, kept_output)"
    )
    connection.execute("CREATE TABLE awaiting (path PRIMARY KEY, module, job)")
    connection.execute("CREATE TABLE taken (path PRIMARY KEY, version)")
    jobs = [_job(0), _job(1)]
    perform(connection, [Accepted(job, b"in", {}, 1) for job in jobs])
    connection.execute("UPDATE jobs SET package = 'kept'")
    moved = [
        msgspec.structs.replace(jobs[0], state=JobState.EXECUTED, code=Code.OK),
        msgspec.structs.replace(jobs[1], state=JobState.DELIVERED, code=Code.OK),
    ]
    perform(connection, [Moved(job, 2) for job in moved])
    rows = connection.execute("SELECT state, package, input FROM jobs ORDER BY seq").fetchall()
    assert rows == [("executed", "kept", b"in"), ("delivered", None, None)]
    connection.close()


def test_batch_closed_job_with_a_marker_records_its_event_once(
    connection: sqlite3.Connection,
) -> None:
    """A job without a completion hook has no marker here, and no event."""
    jobs = [_job(0), _job(1)]
    perform(connection, [Accepted(job, b"in", {}, 1) for job in jobs])
    with_event, without = (_ended(job, JobState.DELIVERED, Code.OK) for job in jobs)
    with_event = msgspec.structs.replace(with_event, marker=b"{}")
    perform(connection, [with_event, without])
    perform(connection, [with_event])
    assert connection.execute("SELECT job, marker, failures FROM events").fetchall() == [
        ("job-0", b"{}", 0)
    ]
