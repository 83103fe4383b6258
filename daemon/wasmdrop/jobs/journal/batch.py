"""Execute the writes of one transaction, in order.

Each write executes its own statements, except for moves that a later one overwrites. Merging rows
into fewer statements saved 2 % of the time of a burst, which did not pay for the code (see
docs/decisions).
"""

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from wasmdrop.jobs.job import Job
from wasmdrop.jobs.journal import awaited_modules, events
from wasmdrop.jobs.journal.database import encode_job
from wasmdrop.protocol.outcome import Code

#: Size limit of the input that the journal keeps of a failed job, in bytes: most inputs are short,
#: and ``wasmdrop retry`` needs the input if the slot holds another one.
_KEPT_INPUT_BYTES: Final = 16 * 1024


class Accepted(msgspec.Struct, frozen=True):
    """A new job, its input as it was read, and the versions that caused it."""

    job: Job
    input: bytes | None
    taken: dict[str, bytes]
    changed_ns: int


class Moved(msgspec.Struct, frozen=True):
    """A job in its new state."""

    job: Job
    changed_ns: int
    marker: bytes | None = None
    """The marker of a delivered job that the completion hook has yet to take."""


class Remembered(msgspec.Struct, frozen=True):
    """Versions that were taken and made no job."""

    taken: dict[str, bytes]


Write = Accepted | Moved | Remembered

Operation = Callable[[sqlite3.Connection], Any]


def perform(connection: sqlite3.Connection, work: Sequence[Write | Operation]) -> list[Any]:
    """Execute ``work`` in order; return the result of each operation, None for a write.

    Raises ``sqlite3.Error``. Part of the work may be done then; the caller rolls back.
    """
    superseded = _superseded(work)
    return [
        None if number in superseded else _perform(connection, one)
        for number, one in enumerate(work)
    ]


def _superseded(work: Sequence[Write | Operation]) -> set[int]:
    """Return the places of moves that a later move of the same job overwrites unread.

    A move writes the row of its job, and so the job's input, anew.
    """
    found: set[int] = set()
    moved: set[str] = set()
    for number in reversed(range(len(work))):
        one = work[number]
        if isinstance(one, Moved):
            if one.job.id in moved:
                found.add(number)
            moved.add(one.job.id)
        elif not isinstance(one, Write):
            moved.clear()  # it may read what an earlier move wrote
    return found


def _perform(connection: sqlite3.Connection, one: Write | Operation) -> Any:
    match one:
        case Accepted(job, data, taken, changed_ns):
            connection.execute(
                "INSERT INTO jobs (id, slot, state, code, job, input, changed_ns)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(job.id, os.fsencode(job.slot.key), job.state, job.code),
                    *(encode_job(job), data, changed_ns),
                ),
            )
            _remember(connection, taken)
            awaited_modules.remove(connection, job)
        case Moved(job, changed_ns, marker):
            _move(connection, job, changed_ns)
            awaited_modules.add(connection, job)
            if marker is not None:
                events.record(connection, job, marker)
        case Remembered(taken):
            _remember(connection, taken)
        case _:
            return one(connection)
    return None


def _move(connection: sqlite3.Connection, job: Job, changed_ns: int) -> None:
    if not job.state.is_final:
        connection.execute(
            "UPDATE jobs SET state = ?, code = ?, job = ?, changed_ns = ?, note = NULL"
            " WHERE id = ?",
            (job.state, job.code, encode_job(job), changed_ns, job.id),
        )
        return
    # A final job no longer needs its results. Its input is kept only for `wasmdrop retry`.
    kept_bytes = _KEPT_INPUT_BYTES if job.code not in {None, Code.OK} else -1
    connection.execute(
        "UPDATE jobs SET state = ?, code = ?, job = ?, changed_ns = ?, note = NULL, package = NULL,"
        " kept_bytes = NULL, kept_output = NULL, input = iif(length(input) > ?, NULL, input)"
        " WHERE id = ?",
        (job.state, job.code, encode_job(job), changed_ns, kept_bytes, job.id),
    )


def _remember(connection: sqlite3.Connection, taken: Mapping[str, bytes]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO taken (path, version) VALUES (?, ?)",
        [(os.fsencode(path), version) for path, version in taken.items()],
    )
