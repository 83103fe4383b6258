"""Near misses: files whose names are almost those of inputs or modules, and so are ignored.

Each is logged once a day, as far as there are not too many: whoever owns a directory may make any
number of such names. What lies in one directory of the shared one does not count for another.
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

__all__ = ["IgnoredNames"]

_log = structlog.get_logger()

#: Names logged a day in one directory of the shared one, with all that is below it, and how many
#: such directories there may be. Each name takes about 70 bytes of memory.
_MOST_NAMES: Final = 64
_MOST_DIRECTORIES: Final = 256

_DAY_SECONDS: Final = 86_400.0

_NO_MORE: Final = "no more of them are logged today; wasmdrop doctor counts them"

#: How long a file must be unchanged, in seconds: until then a producer may yet rename it.
_QUIET_SECONDS: Final = 2.0


class IgnoredNames:
    """Logs near misses. Safe to use from several threads.

    ``recheck`` is asked to notice a path once more after some seconds.
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
        """Hashes of the paths that were logged, by directory."""
        self._since = clock()
        self._lock = threading.Lock()

    def consider(self, path: str) -> None:
        """Log a file that is no drop, if its name is almost that of one."""
        reason = self._layout.why_ignored(path)
        if reason is None or not self._has_room(path):
            return
        place = self._layout.rooted(path)
        try:
            status = openat2.lstat(place.root, place.relative)
        except OSError:
            return  # it is gone, or the walk says what is wrong
        if stat.S_ISDIR(status.st_mode):
            return
        # A file server's clock may be ahead.
        if 0 <= self._clock() - status.st_ctime < _QUIET_SECONDS:
            self._recheck(path, _QUIET_SECONDS)
            return
        self._tell(path, reason)

    def consider_directory(self, path: str) -> None:
        """Log a directory in which nothing is looked at, because it lies too deep."""
        reason = self._layout.why_too_deep(path)
        if reason is not None and self._has_room(path):
            self._tell(path, reason)

    def _has_room(self, path: str) -> bool:
        """Whether the path was not logged yet, and may be."""
        directory = self._directory_of(path)
        with self._lock:
            if abs(self._clock() - self._since) >= _DAY_SECONDS:
                self._logged.clear()
                self._since = self._clock()
            logged = self._logged.get(directory)
            if logged is None:
                return len(self._logged) < _MOST_DIRECTORIES
            return len(logged) < _MOST_NAMES and hash(path) not in logged

    def _tell(self, path: str, reason: str) -> None:
        directory = self._directory_of(path)
        with self._lock:
            logged = self._logged.setdefault(directory, set())
            if hash(path) in logged:
                return
            logged.add(hash(path))
            self._counters.names_ignored += 1
            is_last_name = len(logged) == _MOST_NAMES
            is_last_directory = len(logged) == 1 and len(self._logged) == _MOST_DIRECTORIES
        _log.warning("name-ignored", path=path, reason=reason)
        if is_last_name:
            _log.warning("names-ignored", directory=directory, reason=_NO_MORE)
        if is_last_directory:
            _log.warning("names-ignored", directory="others", reason=_NO_MORE)

    def _directory_of(self, path: str) -> str:
        place = self._layout.rooted(path)
        first, separator, _rest = place.relative.partition("/")
        return os.path.join(place.root, first) if separator else place.root  # noqa: PTH118 - any bytes
