"""Figures of the whole journal for one screen, computed by SQL over its indexes.

With 100,000 open and a million finished jobs they take about a quarter of a second.
"""

import sqlite3
from typing import Final

import msgspec

from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.database import FINAL, decode_job
from wasmdrop.protocol.outcome import Code

#: Reasons of undelivered results that are listed.
_REASONS: Final = 3

_FAILURES: Final = tuple(code for code in Code if code is not Code.OK)


class OpenJobs(msgspec.Struct, frozen=True):
    """The open jobs in one state."""

    state: JobState
    count: int
    oldest: Job
    """The one that was dropped first."""


class Undelivered(msgspec.Struct, frozen=True):
    """Results that wait for their storage."""

    count: int
    size_bytes: int
    reasons: tuple[str, ...]
    """Why, the most frequent reasons first; they come from the daemon, and quote names."""


class WaitingEvents(msgspec.Struct, frozen=True):
    """Events that the completion hook has not taken."""

    count: int
    created_ns: int
    """When the oldest one was recorded; 0 without events."""
    failures: int
    """Failed calls for one event, at most."""


class Summary(msgspec.Struct, frozen=True):
    """The journal in figures."""

    open: tuple[OpenJobs, ...]
    finished: int
    """Jobs that ended since the time that was given."""
    failed: dict[str, int]
    """Those that failed, by code, the most frequent first."""
    undelivered: Undelivered
    events: WaitingEvents


def summary_of(connection: sqlite3.Connection, since_ns: int) -> Summary:
    """Return the figures; those of finished jobs since a time in nanoseconds since 1970.

    Raises ``sqlite3.Error``.
    """
    return Summary(
        tuple(_open(connection)),
        _finished_since(connection, since_ns),
        _failed_since(connection, since_ns),
        _undelivered(connection),
        WaitingEvents(
            *connection.execute(
                "SELECT count(*), coalesce(min(created_ns), 0), coalesce(max(failures), 0)"
                " FROM events"
            ).fetchone()
        ),
    )


def last_failures(connection: sqlite3.Connection, limit: int) -> list[int]:
    """Return the numbers of the jobs that failed last, the latest first. Raises ``sqlite3.Error``.

    Those dropped last of each code are compared, which the index of codes finds at once.
    """
    found: list[tuple[int, int]] = []
    for code in _FAILURES:
        query = f"""
            SELECT changed_ns, seq FROM jobs WHERE code = ? AND code IS NOT NULL AND code != 'ok'
            AND state IN {FINAL} ORDER BY seq DESC LIMIT ?
            """  # noqa: S608 - constants
        found += connection.execute(query, (code, limit))
    return [seq for _changed_ns, seq in sorted(found, reverse=True)[:limit]]


def _open(connection: sqlite3.Connection) -> list[OpenJobs]:
    query = f"""
        SELECT state, count(*), min(seq) FROM jobs WHERE state NOT IN {FINAL} GROUP BY state
        """  # noqa: S608 - constants
    found = []
    for state, count, seq in connection.execute(query).fetchall():
        (job,) = connection.execute("SELECT job FROM jobs WHERE seq = ?", (seq,)).fetchone()
        found.append(OpenJobs(JobState(state), count, decode_job(job)))
    order = list(JobState)
    return sorted(found, key=lambda each: order.index(each.state))


def _finished_since(connection: sqlite3.Connection, since_ns: int) -> int:
    query = f"SELECT count(*) FROM jobs WHERE state IN {FINAL} AND changed_ns >= ?"  # noqa: S608 - constants
    return int(connection.execute(query, (since_ns,)).fetchone()[0])


def _failed_since(connection: sqlite3.Connection, since_ns: int) -> dict[str, int]:
    # By the index of failures: the one of times would lead to the rows of all jobs.
    query = f"""
        SELECT code, count(*) FROM jobs INDEXED BY jobs_code
        WHERE code IS NOT NULL AND code != 'ok' AND state IN {FINAL} AND changed_ns >= ?
        GROUP BY code ORDER BY count(*) DESC
        """  # noqa: S608 - constants
    return dict(connection.execute(query, (since_ns,)).fetchall())


def _undelivered(connection: sqlite3.Connection) -> Undelivered:
    where = "kept_bytes IS NOT NULL"
    count, size_bytes = connection.execute(
        f"SELECT count(*), coalesce(sum(kept_bytes), 0) FROM jobs WHERE {where}"  # noqa: S608
    ).fetchone()
    reasons = connection.execute(
        f"SELECT note FROM jobs WHERE {where} AND note IS NOT NULL"  # noqa: S608
        f" GROUP BY note ORDER BY count(*) DESC LIMIT {_REASONS}"
    )
    return Undelivered(count, size_bytes, tuple(note for (note,) in reasons))
