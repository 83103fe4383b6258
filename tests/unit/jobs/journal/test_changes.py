"""Noticing that the journal may have changed."""

import os
import time
from pathlib import Path

from wasmdrop.jobs.journal.changes import JournalChanges
from wasmdrop.jobs.journal.database import JOURNAL_NAME

#: A time of modification that is long ago, in nanoseconds.
_LONG_AGO = time.time_ns() - 3600 * 1_000_000_000


def _write(path: Path, data: bytes, mtime_ns: int = _LONG_AGO) -> None:
    path.write_bytes(data)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def test_changes_are_noticed_once(tmp_path: Path) -> None:
    """Of the journal and of its log: a new size, time or file, and the end of one."""
    changes, journal = JournalChanges(tmp_path), tmp_path / JOURNAL_NAME
    log = journal.with_name(f"{JOURNAL_NAME}-wal")
    looks = []
    for change in (
        lambda: None,
        lambda: _write(journal, b"1"),
        lambda: _write(log, b"1"),
        lambda: _write(log, b"22"),
        lambda: _write(log, b"33", _LONG_AGO + 1),
        lambda: log.rename(journal),
        journal.unlink,
        changes.forget,
    ):
        change()
        looks.append((changes.look(), changes.look()))
    assert looks == [(True, False)] * 8


def test_changes_of_a_moment_ago_are_looked_at_again(tmp_path: Path) -> None:
    """The file may change again without a new time of modification."""
    changes = JournalChanges(tmp_path)
    _write(tmp_path / JOURNAL_NAME, b"1", time.time_ns())
    assert (changes.look(), changes.look()) == (True, True)
    _write(tmp_path / JOURNAL_NAME, b"1")
    assert (changes.look(), changes.look()) == (True, False)
