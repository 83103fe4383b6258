"""Read the journal from another process, whether the daemon runs or not.

A :class:`JournalReader` sees one snapshot of the journal. To follow changes, open a new one each
time; this also finds a journal that was replaced.
"""

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal import summary
from wasmdrop.jobs.journal.database import (
    FINAL,
    JOURNAL_NAME,
    SCHEMA_VERSION,
    decode_job,
    open_for_reading,
)
from wasmdrop.protocol.errors import SettingsError, StorageError
from wasmdrop.protocol.outcome import Code

_COLUMNS: Final = "job, changed_ns, note, input IS NOT NULL"

#: Changes that are read at a time.
_CHANGES_AT_ONCE: Final = 1000


class JournalEntry(msgspec.Struct, frozen=True):
    """One job in the journal."""

    job: Job
    changed_at_ns: int
    """When it changed last, in nanoseconds since 1970; unique among all changes."""
    note: str
    """Why it stays in its state; may be empty."""
    has_input: bool
    """Whether the journal still has the input."""


class JobFilter(msgspec.Struct, frozen=True):
    """Selects jobs that match each field; an empty field matches all."""

    states: frozenset[JobState] = frozenset()
    codes: frozenset[Code] = frozenset()
    slots: frozenset[str] = frozenset()

    def condition(self) -> tuple[str, list[Any]]:
        """Return the filter as a condition in SQL and its values."""
        parts, values = ["1"], []
        columns: tuple[tuple[str, Iterable[Any]], ...] = (
            ("state", self.states),
            ("code", self.codes),
            ("slot", [os.fsencode(slot) for slot in self.slots]),
        )
        for column, accepted in columns:
            if these := list(accepted):
                parts.append(f"{column} IN ({','.join('?' * len(these))})")
                values += these
        return " AND ".join(parts), values


class JournalReader:
    """A snapshot of the journal in ``state_dir``; a context manager.

    Raises ``SettingsError`` if there is no readable journal, ``StorageError`` if it is damaged.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / JOURNAL_NAME
        self._require_file()
        try:
            self._connection = open_for_reading(self._path)
            try:
                (version,) = self._connection.execute("PRAGMA user_version").fetchone()
                self._connection.execute("BEGIN")
            except sqlite3.Error:
                self._connection.close()
                raise
        except sqlite3.Error as error:
            raise self._unreadable(error) from None
        if version != SCHEMA_VERSION:
            self._connection.close()
            raise SettingsError(
                f"{self._path}: expected a journal of version {SCHEMA_VERSION}, found version"
                f" {version}; {_advice(version)}"
            )

    def __enter__(self) -> Self:
        """Return the snapshot."""
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Close the journal."""
        self._connection.close()

    def jobs(self, wanted: JobFilter, limit: int) -> list[JournalEntry]:
        """Return at most ``limit`` jobs: finished ones, then open ones, in order of their drops.

        If there are more, the oldest open ones come first, because they may be stuck, then the
        newest finished ones.
        """
        found = self.open_jobs(wanted, limit)
        return self._final(wanted, "seq", limit - len(found))[::-1] + found

    def open_jobs(self, wanted: JobFilter, limit: int) -> list[JournalEntry]:
        """Return at most ``limit`` open jobs, in order of their drops."""
        if wanted.states and all(state.is_final for state in wanted.states):
            return []
        condition, values = wanted.condition()
        is_open = f"state NOT IN {FINAL} AND {condition} ORDER BY seq LIMIT ?"
        return self._entries(is_open, [*values, limit])

    def last_finished(self, wanted: JobFilter, limit: int) -> list[JournalEntry]:
        """Return at most ``limit`` finished jobs, those that ended last first."""
        return self._final(wanted, "changed_ns", limit)

    def last_failures(self, limit: int) -> list[JournalEntry]:
        """Return at most ``limit`` jobs that failed, those that ended last first."""
        try:
            numbers = summary.last_failures(self._connection, limit)
        except sqlite3.Error as error:
            raise self._unreadable(error) from None
        return [entry for seq in numbers for entry in self._entries("seq = ?", [seq])]

    def summary(self, since_ns: int) -> summary.Summary:
        """Return the journal in figures; those of finished jobs since that time."""
        try:
            return summary.summary_of(self._connection, since_ns)
        except sqlite3.Error as error:
            raise self._unreadable(error) from None

    def count(self) -> tuple[int, int]:
        """Return the number of open jobs and of all jobs."""
        return self.open_count(), self._number("SELECT count(*) FROM jobs")

    def open_count(self) -> int:
        """Return the number of open jobs."""
        return self._number(f"SELECT count(*) FROM jobs WHERE state NOT IN {FINAL}")  # noqa: S608 - a constant

    def last_change_ns(self) -> int:
        """Return the time of the last change; 0 if there is none."""
        return self._number("SELECT coalesce(max(changed_ns), 0) FROM jobs")

    def changes(self, wanted: JobFilter, after_ns: int) -> list[JournalEntry]:
        """Return jobs that changed after that time, in the order of their changes.

        Returns a thousand at a time: pass the last one's time to go on.
        """
        condition, values = wanted.condition()
        where = f"changed_ns > ? AND {condition} ORDER BY changed_ns LIMIT {_CHANGES_AT_ONCE}"
        return self._entries(where, [after_ns, *values])

    def find(self, name: str) -> JournalEntry:
        """Return the job of this id, or the only one whose id contains ``name``.

        Raises ``SettingsError`` if there is none, or more than one.
        """
        exact = self._entries("id = ?", [name])
        found = exact or self._entries("instr(id, ?) ORDER BY seq DESC LIMIT 4", [name])
        if not found:
            raise SettingsError(
                f"{name!a}: no such job in {self._path}; finished ones stay there for"
                " WASMDROP_KEEP_DAYS"
            )
        if len(found) > 1:
            ids = ", ".join(entry.job.id for entry in found)
            raise SettingsError(
                f"{name!a}: several jobs have it in their ids, such as {ids}; give more of the id"
            )
        return found[0]

    def by_id(self, job_id: str) -> JournalEntry | None:
        """Return the job of this id; None if there is none."""
        found = self._entries("id = ?", [job_id])
        return found[0] if found else None

    def notes(self, job_ids: list[str]) -> dict[str, str]:
        """Return why jobs stay in their state, by id, if that is known."""
        marks = ",".join("?" * len(job_ids))
        query = f"SELECT id, note FROM jobs WHERE id IN ({marks}) AND note IS NOT NULL"  # noqa: S608 - marks
        return dict(self._rows(query, job_ids))

    def first_open(self, slot: str) -> Job | None:
        """Return the job of ``slot`` that its other jobs wait for."""
        where = f"slot = ? AND state NOT IN {FINAL} ORDER BY seq LIMIT 1"
        found = self._entries(where, [os.fsencode(slot)])
        return found[0].job if found else None

    def latest(self, slot: str) -> Job | None:
        """Return the job of ``slot`` that was dropped last."""
        found = self._entries("slot = ? ORDER BY seq DESC LIMIT 1", [os.fsencode(slot)])
        return found[0].job if found else None

    def kept_input(self, job: Job) -> bytes | None:
        """Return the job's input if the journal still has it."""
        found = self._rows("SELECT input FROM jobs WHERE id = ?", [job.id])
        return found[0][0] if found else None

    def _final(self, wanted: JobFilter, order: str, limit: int) -> list[JournalEntry]:
        if wanted.states and not any(state.is_final for state in wanted.states):
            return []  # else all finished jobs would be looked at
        condition, values = wanted.condition()
        is_final = f"state IN {FINAL} AND {condition} ORDER BY {order} DESC LIMIT ?"
        return self._entries(is_final, [*values, limit])

    def _entries(self, where: str, values: list[Any]) -> list[JournalEntry]:
        rows = self._rows(f"SELECT {_COLUMNS} FROM jobs WHERE {where}", values)  # noqa: S608 - constants and marks
        return [
            JournalEntry(decode_job(text), changed_ns, note or "", bool(has_input))
            for text, changed_ns, note, has_input in rows
        ]

    def _number(self, query: str) -> int:
        return int(self._rows(query, [])[0][0])

    def _rows(self, query: str, values: list[Any]) -> list[Any]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from None

    def _require_file(self) -> None:
        try:
            self._path.stat()
        except FileNotFoundError:
            raise SettingsError(
                f"{self._path}: there is no journal; expected the daemon's state directory in"
                " WASMDROP_STATE_DIR or --state-dir"
            ) from None
        except OSError as error:
            raise SettingsError(
                f"{self._path}: can't be read by user {os.geteuid()}: {error.strerror}; the journal"
                " is for root and for the user that runs the daemon"
            ) from None
        if not os.access(self._path, os.R_OK):
            raise SettingsError(
                f"{self._path}: user {os.geteuid()} may not read it; the journal is for root and"
                " for the user that runs the daemon"
            )

    def _unreadable(self, error: sqlite3.Error) -> StorageError:
        return StorageError(f"{self._path}: the journal can't be read: {error}")


def _advice(version: int) -> str:
    if version > SCHEMA_VERSION:
        return "use the wasmdrop that wrote it"
    return "`wasmdrop serve` brings it up to date when it starts"
