"""The daemon's only use of watchdog: its inotify descriptor, reading thread and table of watches.

watchdog's own observers are not used. They pair the two halves of a rename and hold every later
event back for half a second while a half is missing, which is the case whenever a consumer moves
a result out of the tree. A unit test fails if the private parts used here change.
"""

import errno
import fcntl
import os
import struct
import termios
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchCallback,
    WatchDescriptor,
)

from wasmdrop.system.fair_turns import FairTurns

__all__ = [
    "ATOMIC_WRITER_LINK",
    "CallbackId",
    "InotifyConstants",
    "InotifyEvent",
    "InotifyFD",
    "InotifyReader",
    "Mask",
    "WatchDescriptor",
]

# watchdog warns when a directory that was renamed is added again, which updates its path.
warnings.filterwarnings("ignore", "Callback with id .* already exists", RuntimeWarning)

_DIRECTORY_EVENTS: Final = Mask(
    InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MODIFY
    | InotifyConstants.IN_ATTRIB
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_ONLYDIR
)

#: The link that a ConfigMap or Secret volume swaps to show new content (Kubernetes' atomic writer).
ATOMIC_WRITER_LINK: Final = b"..data"

_DOT: Final = ord(".")

#: An event in the kernel's queue, without its name: watch, mask, cookie, size of the name.
_EVENT: Final = struct.Struct("iIII")

_OVERFLOW: Final = InotifyConstants.IN_Q_OVERFLOW
_IS_DIRECTORY: Final = InotifyConstants.IN_ISDIR

#: Read from the kernel's queue at once: more events than it holds by default.
_BUFFER_BYTES: Final = 64 * 1024

#: Pause before a read while the daemon is busy, in seconds. Tuned on two cores: even small jobs
#: take over a millisecond each, so the open jobs of a busy daemon outlast the pause.
_BUSY_PAUSE_SECONDS: Final = 0.010

#: Events that are handled before others are read: some milliseconds of work.
_EVENTS_AT_ONCE: Final = 32

#: Events that wait here at most, about 200 bytes each; others stay in the kernel's queue.
_MOST_WAITING: Final = 50_000


class InotifyReader(InotifyFD):
    """One inotify instance and the thread that reads it.

    Files whose names ``may_matter`` rejects raise no events: each result causes about ten. While
    ``is_busy()`` is true events are read in larger batches. If many events wait, owners take turns:
    ``owner_of(wd)`` returns that of a watched directory.

    Raises ``OSError``: ``EMFILE`` if the user has no inotify instance left or the process no
    descriptor; ``ENOSYS`` or ``EPERM`` if inotify can't be used here.
    """

    _inotify_fd = -1

    def __init__(
        self,
        may_matter: Callable[[str], bool] = lambda _name: True,
        is_busy: Callable[[], bool] = lambda: False,
        owner_of: Callable[[WatchDescriptor], str] = lambda _wd: "",
    ) -> None:
        try:
            super().__init__()
        except OSError:
            if self._inotify_fd >= 0:  # there was no descriptor left for the pipe beside it
                os.close(self._inotify_fd)
            raise
        except ValueError:  # watchdog ignores EACCES, and then polls a descriptor of -1
            os.close(self._kill_r)
            os.close(self._kill_w)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
        self._may_matter = may_matter
        self._is_busy = is_busy
        self._owner_of = owner_of
        self._waiting: FairTurns[InotifyEvent] = FairTurns()

    def watch_directory(self, path: bytes, callback: WatchCallback) -> WatchDescriptor:
        """Report changes in a directory to ``callback``.

        Raises ``OSError``, with ``ENOSPC`` if the user has no inotify watch left.
        """
        return self._watch(path, _DIRECTORY_EVENTS, callback)

    def watch_file(self, path: bytes, callback: WatchCallback) -> WatchDescriptor:
        """Report writes to a file to ``callback``. Raises ``OSError``."""
        return self._watch(path, InotifyConstants.IN_MODIFY, callback)

    def _watch(self, path: bytes, mask: Mask, callback: WatchCallback) -> WatchDescriptor:
        descriptor = self.add_callback(path, mask, callback, CallbackId(id(callback)))
        if descriptor < 0:  # watchdog ignores EACCES
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return descriptor

    def read_events(self, *, event_buffer_size: int = _BUFFER_BYTES) -> list[InotifyEvent]:
        """Return events of directories, of watches themselves, and of files that may matter."""
        if not self._waiting:
            if self._is_busy():
                # Most events are of results. Handling each at once takes the interpreter from jobs.
                time.sleep(_BUSY_PAUSE_SECONDS)
            events = list(self._events_in(self._read_event_buffer(event_buffer_size)))
            if len(events) <= _EVENTS_AT_ONCE:
                return events
            self._let_wait(events)
        if len(self._waiting) < _MOST_WAITING and self._has_unread():
            self._let_wait(self._events_in(self._read_event_buffer(event_buffer_size)))
        return self._waiting.take(_EVENTS_AT_ONCE)

    def _let_wait(self, events: Iterable[InotifyEvent]) -> None:
        self._waiting.add((self._owner_of(event.wd), event) for event in events)

    def _has_unread(self) -> bool:
        """Return whether the kernel's queue has events; False if the reader is being closed."""
        try:
            return any(fcntl.ioctl(self._inotify_fd, termios.FIONREAD, bytes(4)))
        except OSError:
            return False

    def _events_in(self, data: bytes) -> Iterator[InotifyEvent]:
        end = 0
        while end < len(data):
            wd, mask, cookie, name_bytes = _EVENT.unpack_from(data, end)
            start = end + _EVENT.size
            end = start + name_bytes
            if wd == -1 and not mask & _OVERFLOW:
                continue
            name = data[start:end].rstrip(b"\0")
            if name and not mask & _IS_DIRECTORY and not self._is_noticed(name):
                continue
            yield InotifyEvent(wd, mask, cookie, name)

    def _is_noticed(self, name: bytes) -> bool:
        if name[0] == _DOT:
            return name == ATOMIC_WRITER_LINK
        return self._may_matter(os.fsdecode(name))
