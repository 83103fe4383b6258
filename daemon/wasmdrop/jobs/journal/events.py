"""The journal's table of events: markers that the completion hook has not taken yet.

An event is recorded in the transaction that closes its job, and only if there is a hook. It stays
until the hook took it or it is given up, however long the job itself stays in the journal.
"""

import os
import sqlite3
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from wasmdrop.jobs.job import Job
from wasmdrop.protocol.slot import MARKER_SUFFIX

#: Events that are removed at a time: some milliseconds, then jobs have a turn.
_ROWS_AT_ONCE: Final = 200

_COLUMNS: Final = "job, slot, path, marker, created_ns, failures"


class Event(msgspec.Struct, frozen=True):
    """The end of one job, which the hook has not taken yet. Times are nanoseconds since 1970."""

    job_id: str
    slot: str
    """The key of the job's slot."""
    path: str
    """The path of the marker file."""
    marker: bytes
    """Its content."""
    created_ns: int
    failures: int
    """How often the hook failed to take it."""


class DueEvents(msgspec.Struct, frozen=True):
    """Events that are due, in the order of their due times."""

    events: list[Event]
    next_due_ns: int | None
    """When the next event is due; None without one."""
    oldest_ns: int | None
    """When the oldest event of all was recorded; None without one."""
    was_cut: bool
    """Whether more events are due than were asked for."""


def record(connection: sqlite3.Connection, job: Job, marker: bytes) -> None:
    """Record the event of a job that is being closed; it is due at once."""
    now_ns = time.time_ns()
    slot = job.slot
    path = f"{slot.directory.rstrip('/')}/{slot.stem}{MARKER_SUFFIX}"
    connection.execute(
        "INSERT OR IGNORE INTO events (job, slot, path, marker, created_ns, due_ns)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (job.id, os.fsencode(slot.key), os.fsencode(path), marker, now_ns, now_ns),
    )


def remove_oldest(connection: sqlite3.Connection) -> int:
    """Remove some of the oldest events; return how many."""
    query = f"""
        DELETE FROM events WHERE seq IN
        (SELECT seq FROM events ORDER BY created_ns LIMIT {_ROWS_AT_ONCE})"""  # noqa: S608 - a constant
    return connection.execute(query).rowcount


def due(
    connection: sqlite3.Connection,
    now_ns: int,
    latest_ns: int,
    but: frozenset[str],
    limit: int,
    max_bytes: int,
) -> DueEvents:
    """Return events that are due; see :meth:`EventQueue.due`."""
    connection.execute("UPDATE events SET due_ns = ? WHERE due_ns > ?", (now_ns, latest_ns))
    found: list[Event] = []
    size_bytes = 0
    was_cut = False
    query = f"SELECT {_COLUMNS} FROM events WHERE due_ns <= ? ORDER BY due_ns, seq"  # noqa: S608 - constants
    for row in connection.execute(query, (now_ns,)):
        if len(found) >= limit or size_bytes >= max_bytes:
            was_cut = True
            break
        job_id, slot, path, marker, *rest = row
        if job_id not in but:
            found.append(Event(job_id, os.fsdecode(slot), os.fsdecode(path), marker, *rest))
            size_bytes += len(marker)
    later = "SELECT min(due_ns) FROM events WHERE due_ns > ?"
    oldest = "SELECT min(created_ns) FROM events"
    return DueEvents(
        found,
        connection.execute(later, (now_ns,)).fetchone()[0],
        connection.execute(oldest).fetchone()[0],
        was_cut,
    )


def remove(connection: sqlite3.Connection, job_ids: Sequence[str]) -> None:
    """Remove the events of jobs."""
    connection.executemany("DELETE FROM events WHERE job = ?", [(job_id,) for job_id in job_ids])


def postpone(connection: sqlite3.Connection, job_id: str, failures: int, due_ns: int) -> None:
    """Record that the hook failed, and when the event is due again."""
    connection.execute(
        "UPDATE events SET failures = ?, due_ns = ? WHERE job = ?", (failures, due_ns, job_id)
    )


def expire(connection: sqlite3.Connection, before_ns: int) -> list[str]:
    """Remove some events that were recorded before that time; return the ids of their jobs."""
    oldest = f"""
        SELECT seq, job FROM events WHERE created_ns < ? ORDER BY created_ns LIMIT {_ROWS_AT_ONCE}
        """  # noqa: S608 - a constant
    rows = connection.execute(oldest, (before_ns,)).fetchall()
    connection.executemany("DELETE FROM events WHERE seq = ?", [(seq,) for seq, _job in rows])
    return [job for _seq, job in rows]
