"""Entries: many writes in one transaction leave what they would leave one by one."""

import random
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wasmdrop.jobs.job import MOVES, Job, JobState
from wasmdrop.jobs.journal.batch import Accepted, Entry, Moved, Operation, Remembered, perform
from wasmdrop.jobs.journal.database import open_for_writing
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import InputFile, Slot

_CODES = (Code.OK, Code.TRAP, Code.LINK_ERROR)


def _job(number: int) -> Job:
    key = f"input-{number % 3}.json"
    slot = Slot(key, f"/shared/{key}", "/shared", f"result-{number % 3}")
    return Job(f"job-{number}", slot, 1, input=InputFile(slot.input_path, "0" * 64, 3))


def _note(job_id: str, words: str) -> Operation:
    def write(connection: sqlite3.Connection) -> str:
        connection.execute("UPDATE jobs SET note = ? WHERE id = ?", (words, job_id))
        return words

    return write


def _random_work(dice: random.Random) -> list[Entry | Operation]:
    """Return writes as a journal may gather them: jobs accepted once, then moved at random."""
    work: list[Entry | Operation] = []
    jobs: list[Job] = []
    for at in range(dice.randrange(1, 150)):
        kind = dice.randrange(10)
        if kind < 3 or not jobs:
            jobs.append(_job(len(jobs)))
            data = dice.choice([None, b"", b"{}", bytes(20_000)])
            work.append(Accepted(jobs[-1], data, {f"/shared/{at % 4}": b"%d" % at}, at))
        elif kind < 8:
            index = dice.randrange(len(jobs))
            states = sorted(MOVES[jobs[index].state])
            if states:
                state = dice.choice(states)
                # A job that is run again keeps its code until it has another one.
                code = dice.choice(_CODES) if state is JobState.EXECUTED else jobs[index].code
                jobs[index] = msgspec.structs.replace(jobs[index], state=state, code=code)
                work.append(Moved(jobs[index], at))
        elif kind == 8:
            work.append(Remembered({f"/shared/{at % 4}": b"%d" % at}))
        else:
            work.append(_note(dice.choice(jobs).id, f"note {at}"))
    return work


def _content(connection: sqlite3.Connection) -> list[Any]:
    jobs = connection.execute(
        "SELECT seq, id, slot, state, code, job, input, package, changed_ns, note,"
        " kept_bytes, kept_output FROM jobs"
        " ORDER BY seq"
    )
    awaiting = connection.execute(
        "SELECT path, module, awaiting.job FROM awaiting JOIN jobs ON jobs.id = awaiting.job"
        " WHERE code = 'link-error' ORDER BY path"
    )
    return [*jobs, *awaiting, *connection.execute("SELECT * FROM taken ORDER BY path")]


@pytest.mark.parametrize("seed", range(30))
def test_many_writes_together_leave_what_they_leave_one_by_one(tmp_path: Path, seed: int) -> None:
    """Whatever comes between them, and however often a row is written."""
    work = _random_work(random.Random(seed))  # noqa: S311 - a test's dice
    together = open_for_writing(tmp_path / "together.sqlite")
    alone = open_for_writing(tmp_path / "alone.sqlite")
    try:
        results = perform(together, work)
        assert results == [result for one in work for result in perform(alone, [one])]
        assert _content(together) == _content(alone)
        assert len(_content(together)) > 0
    finally:
        together.close()
        alone.close()


def test_a_final_job_has_no_package_and_an_open_one_keeps_its() -> None:
    """What could not be delivered is kept until the job is done with."""
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
