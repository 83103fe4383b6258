"""The journal's reads and its retention, as operations for the commit thread.

No statement that runs for each job or event reads more rows than it returns or changes, but for a
constant: a large journal is not slower.
"""

import os
import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal import events
from wasmdrop.jobs.journal.awaited_modules import KeyRange
from wasmdrop.jobs.journal.database import FINAL, decode_job
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import FileVersion
from wasmdrop.protocol.text import bounded_text

#: Rows and pages that one step of retention takes: some milliseconds, then jobs have a turn.
_ROWS_AT_ONCE: Final = 200
_PAGES_AT_ONCE: Final = 256

#: Open jobs that are read at a time, at the start: a megabyte or two, while no job waits for more.
_OPEN_AT_ONCE: Final = 1000

#: Free pages that stay in the file for reuse: this many, or a quarter of all.
_SPARE_PAGES: Final = 1024

#: The part of the journal's quota past which the inputs of finished jobs are removed.
_INPUTS_GO_AT: Final = 0.75

_OF_THE_MODULE: Final = "({})".format(", ".join(f"'{c}'" for c in Code if c.of_the_module))
_OPEN_JOB: Final = "SELECT seq, job, kept_bytes, kept_output FROM jobs"
_OLDEST: Final = f"ORDER BY changed_ns LIMIT {_ROWS_AT_ONCE}"


class OpenJob(NamedTuple):
    """A job that is not final."""

    seq: int
    """Its place in the order of acceptance."""
    job: Job
    kept_bytes: int | None
    """Size of its results, if they were kept because delivery failed; with output files."""
    kept_output: str | None
    """The directory of its output files; empty if there are none, None if that is not known."""


class Trimmed(NamedTuple):
    """What one step of :func:`trim` removed."""

    inputs: int = 0
    jobs: int = 0
    events: int = 0


def open_jobs(connection: sqlite3.Connection, after_seq: int) -> list[OpenJob]:
    """Return the first jobs after that place that are not final, in the order of their drops."""
    query = f"{_OPEN_JOB} WHERE state NOT IN {FINAL} AND seq > ? ORDER BY seq LIMIT {_OPEN_AT_ONCE}"
    return [_open_job(row) for row in connection.execute(query, (after_seq,))]


def job_of(connection: sqlite3.Connection, job_id: str) -> OpenJob:
    """Return the job of this id; there must be one."""
    return _open_job(connection.execute(f"{_OPEN_JOB} WHERE id = ?", (job_id,)).fetchone())


def latest_jobs(connection: sqlite3.Connection, slot_keys: Sequence[str]) -> dict[str, Job]:
    """Return the latest job of each of these slots that has one, without discarded jobs."""
    query = f"""
        SELECT job FROM jobs WHERE slot = ? AND state != '{JobState.DISCARDED}'
        ORDER BY seq DESC LIMIT 1
        """  # noqa: S608 - a constant
    found = {}
    for key in slot_keys:
        row = connection.execute(query, (os.fsencode(key),)).fetchone()
        if row is not None:
            found[key] = decode_job(row[0])
    return found


def find_job(connection: sqlite3.Connection, job_id: str) -> Job | None:
    """Return the job of this id as it is now; None if there is none."""
    found = connection.execute("SELECT job FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return None if found is None else decode_job(found[0])


def input_of(connection: sqlite3.Connection, job_id: str) -> bytes | None:
    """Return the input of a job as it was read."""
    found = connection.execute("SELECT input FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return None if found is None else found[0]


def package_of(
    connection: sqlite3.Connection, job_id: str
) -> tuple[bytes | None, int | None] | None:
    """Return the results kept in a job's row, and their size; None without a job."""
    query = "SELECT package, kept_bytes FROM jobs WHERE id = ?"
    found: tuple[bytes | None, int | None] | None
    found = connection.execute(query, (job_id,)).fetchone()
    return found


def forget_package(connection: sqlite3.Connection, job_id: str) -> None:
    """Remove the results kept in a job's row."""
    connection.execute(
        "UPDATE jobs SET package = NULL, kept_bytes = NULL, kept_output = NULL WHERE id = ?",
        (job_id,),
    )


def last_module(connection: sqlite3.Connection, slot_key: str) -> FileVersion | None:
    """Return the version of the module of a slot's latest job."""
    query = "SELECT job FROM jobs WHERE slot = ? ORDER BY seq DESC LIMIT 1"
    found = connection.execute(query, (os.fsencode(slot_key),)).fetchone()
    module = None if found is None else decode_job(found[0]).module
    return None if module is None else module.version


def awaiting(
    connection: sqlite3.Connection, keys: KeyRange, after: tuple[bytes, str] | None, limit: int
) -> list[tuple[bytes, str]]:
    """Return pairs of a key and the path of an input; see :meth:`Journal.awaiting`."""
    key, path = after or (keys.first, "")
    # A job that was queued again has no such code when it is done.
    query = f"""
        SELECT a.module, a.path FROM awaiting AS a LEFT JOIN jobs AS j ON j.id = a.job
        WHERE (a.module, a.path) > (?, ?) AND a.module < ?
        AND (j.id IS NULL OR j.code IN {_OF_THE_MODULE})
        ORDER BY a.module, a.path LIMIT ?
        """  # noqa: S608 - constants
    rows = connection.execute(query, (key, os.fsencode(path), keys.end, limit))
    return [(found_key, os.fsdecode(found)) for found_key, found in rows]


def explain(connection: sqlite3.Connection, job_id: str, note: str, changed_ns: int) -> None:
    """Note for people why a job stays in its state."""
    shown = bounded_text(note)
    connection.execute(
        "UPDATE jobs SET note = ?, changed_ns = ? WHERE id = ? AND note IS NOT ?",
        (shown, changed_ns, job_id, shown),
    )


def forget(connection: sqlite3.Connection, path: str) -> None:
    """Forget which version of a file was taken."""
    row = (os.fsencode(path),)
    connection.execute("DELETE FROM taken WHERE path = ?", row)
    connection.execute("DELETE FROM awaiting WHERE path = ?", row)


def prune(connection: sqlite3.Connection, before_ns: int) -> int:
    """Remove some final jobs that changed last before that time; return how many."""
    query = f"""
        DELETE FROM jobs WHERE seq IN (
            SELECT seq FROM jobs WHERE state IN {FINAL} AND changed_ns < ? {_OLDEST}
        )"""  # noqa: S608 - constants
    return connection.execute(query, (before_ns,)).rowcount


def trim(connection: sqlite3.Connection, max_bytes: int) -> Trimmed:
    """Remove some of the oldest of finished jobs; see :meth:`Journal.trim`."""
    drop_inputs = f"""
        UPDATE jobs SET input = NULL WHERE seq IN (
            SELECT seq FROM jobs WHERE state IN {FINAL} AND input IS NOT NULL {_OLDEST}
        )"""  # noqa: S608 - constants
    drop_jobs = f"""
        DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE state IN {FINAL} {_OLDEST})
        """  # noqa: S608 - constants
    used_bytes = _used_bytes(connection)
    inputs = jobs = removed = 0
    if used_bytes > max_bytes * _INPUTS_GO_AT:
        inputs = connection.execute(drop_inputs).rowcount
    if used_bytes > max_bytes and not inputs:
        jobs = connection.execute(drop_jobs).rowcount
        if not jobs:
            removed = events.remove_oldest(connection)
    return Trimmed(inputs, jobs, removed)


def free_pages(connection: sqlite3.Connection) -> int:
    """Return some free pages beyond the spare ones to the filesystem; return how many."""
    pages, unused = _pragma(connection, "page_count"), _pragma(connection, "freelist_count")
    surplus = min(_PAGES_AT_ONCE, unused - max(_SPARE_PAGES, pages // 4))
    for _ in range(surplus):
        # One at a time: Python's sqlite3 steps through such a statement only once.
        connection.execute("PRAGMA incremental_vacuum(1)")
    return max(0, surplus)


def _used_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of the file without its free pages; all values are in its first page."""
    used_pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return _pragma(connection, "page_size") * used_pages


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _open_job(row: tuple[int, str, int | None, bytes | None]) -> OpenJob:
    seq, text, kept_bytes, output = row
    return OpenJob(
        seq, decode_job(text), kept_bytes, None if output is None else os.fsdecode(output)
    )
