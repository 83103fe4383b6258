"""Entries: what one transaction writes of jobs and of versions taken, each row once.

A transaction shows its last word alone: of a job that is accepted, started and done within one,
there is one row to write. Rows of a kind are written by few statements, as Python lets go of the
interpreter for each, and gets it back when others have done.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from wasmdrop.jobs.job import Job
from wasmdrop.jobs.journal import reruns
from wasmdrop.jobs.journal.database import encode_job
from wasmdrop.protocol.outcome import Code

__all__ = ["Accepted", "Entry", "Moved", "Operation", "Remembered", "perform"]

#: Rows of one statement, at most: SQLite keeps the statements of each power of two up to that.
_MOST_ROWS: Final = 32

#: Largest input that is kept, in bytes, of a job that failed: most are a line, and a person may
#: want to run them again when the slot holds another one.
_KEPT_INPUT_BYTES: Final = 16 * 1024


class Accepted(msgspec.Struct, frozen=True):
    """A new job, with its input as it was read, and the versions that caused it."""

    job: Job
    input: bytes | None
    taken: dict[str, bytes]
    changed_ns: int


class Moved(msgspec.Struct, frozen=True):
    """A job as it is from now on."""

    job: Job
    changed_ns: int


class Remembered(msgspec.Struct, frozen=True):
    """Versions that were taken and made no job."""

    taken: dict[str, bytes]


Entry = Accepted | Moved | Remembered

Operation = Callable[[sqlite3.Connection], Any]


def perform(connection: sqlite3.Connection, work: Sequence[Entry | Operation]) -> list[Any]:
    """Do all of ``work`` as if in its order; return what each operation returned.

    Raises ``sqlite3.Error``; then some of it may be done, for the caller to roll back.
    """
    results: list[Any] = []
    rows = _Rows()
    for one in work:
        if isinstance(one, Entry):
            rows.add(one)
            results.append(None)
        else:
            # It may look at what comes before it.
            rows.write(connection)
            rows = _Rows()
            results.append(one(connection))
    rows.write(connection)
    return results


class _Rows:
    """What is to be written, by the key of its row."""

    def __init__(self) -> None:
        self._new: dict[str, Accepted] = {}
        self._moved: dict[str, Moved] = {}
        self._taken: dict[str, bytes] = {}

    def add(self, entry: Entry) -> None:
        if isinstance(entry, Moved):
            self._moved[entry.job.id] = entry
            return
        if isinstance(entry, Accepted):
            self._new[entry.job.id] = entry
        self._taken.update(entry.taken)

    def write(self, connection: sqlite3.Connection) -> None:
        accepted = [entry.job for entry in self._new.values()]
        moved = [entry.job for entry in self._moved.values()]
        _write(
            connection,
            "INSERT INTO jobs (id, slot, state, code, job, input, changed_ns) VALUES",
            [self._new_row(entry) for entry in self._new.values()],
        )
        _write(
            connection,
            "INSERT OR REPLACE INTO taken (path, version) VALUES",
            [(os.fsencode(path), version) for path, version in self._taken.items()],
        )
        _write(
            connection,
            "UPDATE jobs SET state = column2, code = column3, job = column4, changed_ns = column5,"
            " note = NULL, package = iif(column6, NULL, package),"
            " kept_bytes = iif(column6, NULL, kept_bytes),"
            " kept_output = iif(column6, NULL, kept_output), input ="
            " iif(column6 AND length(input) > column7, NULL, input) FROM (VALUES",
            [self._changed_row(entry) for entry in self._moved.values()],
            ") WHERE id = column1",
        )
        reruns.write(connection, accepted, moved)

    def _new_row(self, entry: Accepted) -> tuple[Any, ...]:
        """Return the row of a new job, as the last move in this transaction leaves it."""
        last = self._moved.pop(entry.job.id, entry)
        job, data = last.job, entry.input
        if data is not None and job.state.is_final and len(data) > _kept_bytes(job):
            data = None
        return (
            *(job.id, os.fsencode(job.slot.key), job.state, job.code),
            *(encode_job(job), data, last.changed_ns),
        )

    @staticmethod
    def _changed_row(entry: Moved) -> tuple[Any, ...]:
        job = entry.job
        text = encode_job(job)
        # A final job needs its results no more; its input is kept for people alone.
        is_final = job.state.is_final
        return (job.id, job.state, job.code, text, entry.changed_ns, is_final, _kept_bytes(job))


def _kept_bytes(job: Job) -> int:
    """Return how large the input of a final job may be to be kept."""
    return _KEPT_INPUT_BYTES if job.code not in {None, Code.OK} else -1


def _write(
    connection: sqlite3.Connection, before: str, rows: list[tuple[Any, ...]], after: str = ""
) -> None:
    for together in _in_powers_of_two(rows):
        marks = f"({','.join('?' * len(together[0]))})"
        values = [value for row in together for value in row]
        connection.execute(f"{before} {','.join([marks] * len(together))}{after}", values)


def _in_powers_of_two(rows: list[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    start = 0
    while start < len(rows):
        size = _MOST_ROWS
        while size > len(rows) - start:
            size //= 2
        yield rows[start : start + size]
        start += size
