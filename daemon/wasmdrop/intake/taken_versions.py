"""Remembers which versions of files were taken, as the journal does or will do.

There may be as many files as the disk has room for, so only recent changes are in memory.
"""

import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from wasmdrop.protocol.errors import StorageError

#: Changes kept in memory even if the journal has them.
_MAX_RECENT: Final = 4096

#: How many of them are compared with the journal at once.
_COMPARED: Final = 1024

#: Rows read at once.
_ROWS: Final = 500


class JournalUnreadableError(StorageError):
    """The journal can't be read any more, and the daemon is about to end."""


class TakenVersions:
    """Versions by path, as ``journal`` has them. Thread-safe.

    The caller of :meth:`put` has the journal write the same. ``on_damage(reason)`` is called, on
    any thread, if the journal can't be read any more, before ``JournalUnreadableError`` is raised.
    """

    def __init__(self, journal: Path, on_damage: Callable[[str], None]) -> None:
        self._on_damage = on_damage
        self._connection = sqlite3.connect(
            f"file:{quote(os.fsencode(journal))}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        self._recent: OrderedDict[str, bytes | None] = OrderedDict()
        self._limit = _MAX_RECENT
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the journal, after a read that another thread is in the middle of."""
        with self._lock:  # sqlite3 frees what such a read still uses
            self._connection.close()

    def is_empty(self) -> bool:
        """Return whether no version was taken, and the journal has no job."""
        query = "SELECT 1 FROM taken UNION ALL SELECT 1 FROM jobs LIMIT 1"
        with self._lock:
            return not self._recent and not self._read(query, [])

    def get(self, path: str) -> bytes | None:
        """Return the version that was taken of a file."""
        return self.get_all([path]).get(path)

    def get_all(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Return the versions that were taken of these files, by path."""
        with self._lock:
            known = {path: self._recent[path] for path in paths if path in self._recent}
            others = [path for path in paths if path not in known]
            found = {path: version for path, version in known.items() if version is not None}
            return found | self._stored(others)

    def put(self, path: str, version: bytes | None) -> None:
        """Record a version that was taken, or with None that it was forgotten."""
        with self._lock:
            self._recent[path] = version
            self._recent.move_to_end(path)
            if len(self._recent) > self._limit:
                self._drop_oldest()

    def pages(self, directory: str = "") -> Iterator[list[tuple[str, bytes]]]:
        """Yield all paths, or those below a directory, with their versions, in pages."""
        start, end = f"{directory}/", f"{directory}0"  # "0" follows "/"
        with self._lock:
            recent = [item for item in self._recent.items() if item[0].startswith(start)]
        yield [(path, version) for path, version in recent if version]
        last = os.fsencode(start)
        while True:
            with self._lock:
                query = (
                    "SELECT path, version FROM taken WHERE path > ? AND path < ?"
                    " ORDER BY path LIMIT ?"
                )
                rows = self._read(query, [last, os.fsencode(end), _ROWS])
                page = [(os.fsdecode(path), version) for path, version in rows]
                page = [item for item in page if item[0] not in self._recent]
            if not rows:
                return
            last = rows[-1][0]
            yield page

    def _drop_oldest(self) -> None:
        """Forget the oldest changes that the journal has written."""
        oldest = [self._recent.popitem(last=False) for _ in range(_COMPARED)]
        stored = self._stored([path for path, _version in oldest])
        # As the youngest, so that others are compared next time.
        self._recent.update(item for item in oldest if stored.get(item[0]) != item[1])
        # If the journal is late, not again at each change.
        self._limit = max(_MAX_RECENT, len(self._recent) + _COMPARED)

    def _stored(self, paths: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for start in range(0, len(paths), _ROWS):
            some = [os.fsencode(path) for path in paths[start : start + _ROWS]]
            marks = ",".join("?" * len(some))
            query = f"SELECT path, version FROM taken WHERE path IN ({marks})"  # noqa: S608 - marks
            found.update((os.fsdecode(path), version) for path, version in self._read(query, some))
        return found

    def _read(self, query: str, values: list[Any]) -> list[Any]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.ProgrammingError:
            raise  # closed, because the daemon stops
        except sqlite3.DatabaseError as error:
            self._on_damage(str(error))
            raise JournalUnreadableError(str(error)) from error
