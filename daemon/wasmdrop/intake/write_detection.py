"""Tells files that are still being written from complete ones.

The watcher sees files that change and are not closed. The kernel knows writers, too: it grants a
read lease (fcntl(2)) only on a file that no process has open for writing. It grants leases only to
the owner of the file and to root, and it knows nothing of writers on other machines. So a refused
lease is proof, and a granted one is not.
"""

import contextlib
import fcntl
import signal
import stat
import sys
import time
from collections.abc import Callable

from wasmdrop.intake.layout import RootedPath
from wasmdrop.intake.untrusted_files import open_regular
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.system import openat2
from wasmdrop.system.openat2 import Links

__all__ = ["UnclosedFile", "WriteDetector"]

#: When a file changed last, by the monotonic clock in seconds, and whether it was written to since
#: it was created: a link into place creates a name, too.
UnclosedFile = tuple[float, bool]


class WriteDetector:
    """Knows which files are being written.

    ``unclosed(path)`` returns what the watcher saw of a file that was not closed since, or None.
    ``recheck(path, seconds)`` is asked to notice a path once more. ``is_polling()`` returns
    whether changes may go without events. Times are in seconds: a file that is only created is
    given ``settle`` to turn out to be a link, and one that is open and does not change is taken for
    complete after ``quiet``.
    """

    def __init__(
        self,
        settle: float,
        quiet: float,
        unclosed: Callable[[str], UnclosedFile | None],
        recheck: Callable[[str, float], None],
        is_polling: Callable[[], bool],
    ) -> None:
        self._settle = settle
        self.quiet_seconds = quiet
        self._unclosed = unclosed
        self._recheck = recheck
        self._is_polling = is_polling

    def will_close(self, path: str, place: RootedPath) -> bool:
        """Return whether to wait for the event of the close. Raises ``OSError``."""
        found = self._unclosed(path)
        if found is None:
            return False
        changed_at, is_written = found
        quiet = time.monotonic() - changed_at
        if quiet >= self.quiet_seconds:
            return False  # a writer that hangs, or a close that was lost
        if is_written:
            return True
        status = openat2.lstat(place.root, place.relative)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            return False  # a link: no close will come
        if status.st_size and quiet < self._settle:
            self._recheck(path, self._settle - quiet)
        return not status.st_size or quiet < self._settle

    def has_open(self, path: str, place: RootedPath) -> bool:
        """Return whether a process is known to have the file open for writing."""
        found = self._unclosed(path)
        return (found is not None and found[1]) or _refuses_lease(place)

    def may_have_open(self, path: str, place: RootedPath, mtime_ns: int, lately: float) -> bool:
        """Return :meth:`has_open`; without events also whether it changed in ``lately`` seconds."""
        if self._is_polling() and time.time_ns() - mtime_ns < lately * 1e9:
            return True
        return self.has_open(path, place)


def _refuses_lease(place: RootedPath) -> bool:
    with (
        contextlib.suppress(OSError, RefusedError),
        open_regular(
            *(place.root, place.relative, sys.maxsize, Code.INVALID_INPUT, Links.LAST)
        ) as (fd, _status, _found_in),
    ):
        # A process that opens the file for writing just now causes a signal. SIGIO would end the
        # daemon; SIGURG is ignored.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            return True
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
