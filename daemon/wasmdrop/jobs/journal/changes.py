"""Notices that the journal may have changed, without opening it."""

import time
from pathlib import Path
from typing import Final

from wasmdrop.jobs.journal.database import JOURNAL_NAME

#: A file that changed so lately may change again without a new time of modification: the kernel's
#: clock for these ticks every few milliseconds, and more slowly on some filesystems.
_FRESH_NS: Final = 2_000_000_000

_Version = tuple[tuple[int, int, int] | None, ...]


class JournalChanges:
    """Compares the journal's files in ``state_dir`` with those of the last look."""

    def __init__(self, state_dir: Path) -> None:
        path = state_dir / JOURNAL_NAME
        # Most changes are in SQLite's write-ahead log.
        self._paths = (path, path.with_name(f"{path.name}-wal"))
        self._seen: _Version | None = None

    def look(self) -> bool:
        """Return whether the journal may have changed since the last call."""
        found = tuple(map(_version, self._paths))
        has_changed = found != self._seen
        now_ns = time.time_ns()
        is_fresh = any(each is not None and now_ns - each[2] < _FRESH_NS for each in found)
        self._seen = None if is_fresh else found
        return has_changed

    def forget(self) -> None:
        """Let the next look find a change."""
        self._seen = None


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
