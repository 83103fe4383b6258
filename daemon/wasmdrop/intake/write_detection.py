"""Tells files that are still being written from complete ones.

There are two sources. The watcher sees files that change and are not closed. The kernel grants a
read lease (fcntl(2)) only on a file that no process has open for writing; it grants leases only to
the file's owner and to root, and knows no writers on other machines. So a refused lease proves that
there is a writer, and a granted one does not prove that there is none.
"""

import contextlib
import fcntl
import signal
import stat
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from wasmdrop.intake.layout import RootedPath
from wasmdrop.intake.untrusted_files import open_file
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.system import openat2
from wasmdrop.system.openat2 import Links

#: Most invalid files that are observed at a time; each takes about 300 bytes.
_MAX_INVALID: Final = 10_000


class UnclosedFile(NamedTuple):
    """A file that was created or written to, and not closed after writing since."""

    changed_at: float
    """The last change, by the monotonic clock in seconds."""
    is_written: bool
    """False if it was only created, as a link into place is, too."""


class WriteDetector:
    """Says which files are being written.

    ``unclosed(path)`` returns the record of the watcher on a file. ``recheck(path, seconds)`` has a
    path considered again later. ``is_polling()`` says whether changes may raise no events. A file
    that was only created gets ``settle_seconds`` to turn out to be a link; one that is open and
    unchanged for ``quiet_seconds`` counts as complete.
    """

    def __init__(
        self,
        settle_seconds: float,
        quiet_seconds: float,
        unclosed: Callable[[str], UnclosedFile | None],
        recheck: Callable[[str, float], None],
        is_polling: Callable[[], bool],
    ) -> None:
        self._settle_seconds = settle_seconds
        self._quiet_seconds = quiet_seconds
        self._unclosed = unclosed
        self._recheck = recheck
        self._is_polling = is_polling
        self._invalid: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        """Version of each invalid file, and since when it is that."""

    def will_close(self, path: str, file: RootedPath) -> bool:
        """Return whether to wait for the event of the close. Raises ``OSError``."""
        found = self._unclosed(path)
        if found is None:
            return False
        quiet_seconds = time.monotonic() - found.changed_at
        if quiet_seconds >= self._quiet_seconds:
            return False  # the writer hangs, or the event was lost
        if found.is_written:
            return True
        status = openat2.lstat(file.root, file.relative)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            return False  # a link, of which no close will come
        is_settled = quiet_seconds >= self._settle_seconds
        if status.st_size and not is_settled:
            self._recheck(path, self._settle_seconds - quiet_seconds)
        return not status.st_size or not is_settled

    def has_settled(self, path: str, file: RootedPath, version: bytes) -> bool:
        """Return whether an invalid file is complete; if not, have it considered again.

        It is complete if it stays the same for the settle time and has no known writer.
        """
        now = time.monotonic()
        known, since = self._invalid.get(path, (b"", 0.0))
        if known != version:
            self._invalid[path] = (version, now)
            if len(self._invalid) > _MAX_INVALID:
                self._invalid.popitem(last=False)  # its time starts again
            since = now
        quiet_seconds = now - since
        if quiet_seconds < self._settle_seconds:
            self._recheck(path, self._settle_seconds - quiet_seconds)
            return False
        if quiet_seconds < self._quiet_seconds and self._has_writer(path, file):
            self._recheck(path, self._settle_seconds)
            return False
        self.forget(path)
        return True

    def forget(self, path: str) -> None:
        """Forget an invalid file that is gone or valid now."""
        self._invalid.pop(path, None)

    def may_have_writer(
        self, path: str, file: RootedPath, mtime_ns: int, recent_seconds: float
    ) -> bool:
        """Return whether a process has the file open for writing.

        If changes raise no events, a file that changed in the last ``recent_seconds`` counts, too.
        """
        if self._is_polling() and time.time_ns() - mtime_ns < recent_seconds * 1e9:
            return True
        return self._has_writer(path, file)

    def _has_writer(self, path: str, file: RootedPath) -> bool:
        found = self._unclosed(path)
        return (found is not None and found.is_written) or _refuses_lease(file)


def _refuses_lease(file: RootedPath) -> bool:
    with (
        contextlib.suppress(OSError, RefusedError),
        open_file(file, sys.maxsize, Code.INVALID_INPUT, Links.LAST) as opened,
    ):
        return refuses_lease(opened.fd)
    return False


def refuses_lease(fd: int) -> bool:
    """Return whether a process is known to have the file that is open at ``fd`` open for writing.

    ``fd`` must be open for reading only.
    """
    with contextlib.suppress(OSError):
        # A process that opens the file for writing meanwhile causes a signal. The default, SIGIO,
        # would end the daemon; SIGURG is ignored.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            return True
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
