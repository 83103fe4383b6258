"""Logs ignored names: those of files that were probably meant to be inputs or modules.

Each is logged once a day, up to a limit for each directory below the shared one, because its owner
can create any number of such names.
"""

import os
import stat
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from wasmdrop.intake.counters import IntakeCounters
from wasmdrop.intake.layout import Layout
from wasmdrop.system import openat2

_log = structlog.get_logger()

#: Most names logged a day for one directory below the shared one, with its subdirectories, and most
#: such directories. Each name takes about 70 bytes of memory.
_MAX_NAMES: Final = 64
_MAX_DIRECTORIES: Final = 256

_DAY_SECONDS: Final = 86_400.0

_NO_MORE: Final = "no more ignored names are logged today; wasmdrop doctor counts them"

#: Time, in seconds, for a producer to rename a file before it is logged.
_QUIET_SECONDS: Final = 2.0


class IgnoredNames:
    """Logs ignored names. Thread-safe.

    ``recheck(path, seconds)`` has a path considered again later.
    """

    def __init__(
        self,
        layout: Layout,
        counters: IntakeCounters,
        recheck: Callable[[str, float], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._layout = layout
        self._counters = counters
        self._recheck = recheck
        self._clock = clock
        self._logged: dict[str, set[int]] = {}
        """Hashes of the logged paths, by directory."""
        self._since = clock()
        self._lock = threading.Lock()

    def consider(self, path: str) -> None:
        """Log a file that is no drop, if it was probably meant to be one."""
        reason = self._layout.why_ignored(path)
        if reason is None or not self._has_room(path):
            return
        rooted = self._layout.rooted(path)
        try:
            status = openat2.lstat(rooted.root, rooted.relative)
        except OSError:
            return  # it is gone, or the scan reports what is wrong
        if stat.S_ISDIR(status.st_mode):
            return
        # A file server's clock may be ahead.
        if 0 <= self._clock() - status.st_ctime < _QUIET_SECONDS:
            self._recheck(path, _QUIET_SECONDS)
            return
        self._report(path, reason)

    def consider_directory(self, path: str) -> None:
        """Log a directory that is too deep to be scanned."""
        reason = self._layout.why_too_deep(path)
        if reason is not None and self._has_room(path):
            self._report(path, reason)

    def report(self, path: str, reason: str) -> None:
        """Log a file that has the right name and is ignored for another reason."""
        if self._has_room(path):
            self._report(path, reason)

    def _has_room(self, path: str) -> bool:
        """Return whether the path was not logged yet, and may be."""
        directory = self._directory_of(path)
        with self._lock:
            if abs(self._clock() - self._since) >= _DAY_SECONDS:
                self._logged.clear()
                self._since = self._clock()
            logged = self._logged.get(directory)
            if logged is None:
                return len(self._logged) < _MAX_DIRECTORIES
            return len(logged) < _MAX_NAMES and hash(path) not in logged

    def _report(self, path: str, reason: str) -> None:
        directory = self._directory_of(path)
        with self._lock:
            logged = self._logged.setdefault(directory, set())
            if hash(path) in logged:
                return
            logged.add(hash(path))
            self._counters.names_ignored += 1
            is_last_name = len(logged) == _MAX_NAMES
            is_last_directory = len(logged) == 1 and len(self._logged) == _MAX_DIRECTORIES
        _log.warning("name-ignored", path=path, reason=reason)
        if is_last_name:
            _log.warning("names-ignored", directory=directory, reason=_NO_MORE)
        if is_last_directory:
            _log.warning("names-ignored", directory="others", reason=_NO_MORE)

    def _directory_of(self, path: str) -> str:
        rooted = self._layout.rooted(path)
        first, separator, _rest = rooted.relative.partition("/")
        return os.path.join(rooted.root, first) if separator else rooted.root  # noqa: PTH118 - any bytes
