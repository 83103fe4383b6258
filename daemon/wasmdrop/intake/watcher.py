"""The watcher: notices paths below the watched directories. It never opens or judges anything.

Events are hints: whoever hears of a path looks for itself. Uses watchdog's inotify descriptor and
its bookkeeping of watches, below watchdog's own observers: those pair the two halves of a rename
and hold every later event back for half a second while a half is missing, which is what happens
whenever a consumer moves a result out of the tree.

Callbacks come on watchdog's reading thread, in the order of the events.
"""

import contextlib
import errno
import os
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import structlog
from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

from wasmdrop.intake.layout import is_ignored
from wasmdrop.system import openat2
from wasmdrop.system.heartbeat import Heartbeat

__all__ = ["UnclosedFile", "Watcher", "why_unwatched"]

_log = structlog.get_logger()

# A directory that was renamed is watched already, under its old path: adding it again tells us the
# new one, which is what we want and what watchdog warns of.
warnings.filterwarnings("ignore", "Callback with id .* already exists", RuntimeWarning)

_MASK: Final = Mask(
    InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MODIFY
    | InotifyConstants.IN_ATTRIB
    | InotifyConstants.IN_ONLYDIR
)

#: What a ConfigMap or Secret volume swaps to show new content (Kubernetes' atomic writer).
_ATOMIC_WRITER_LINK: Final = b"..data"

_DOT: Final = ord(".")

#: What is read of the kernel's queue at once: more events than it holds by default.
_BUFFER_BYTES: Final = 64 * 1024

#: How long to leave events where they are while many drops wait, in seconds: less than those take.
_NAP_SECONDS: Final = 0.010

#: Files open for writing that are remembered; of others nothing is known.
_MOST_UNCLOSED: Final = 10_000


class UnclosedFile(NamedTuple):
    """A file that was created or written to, and not closed after writing since."""

    changed_at: float
    """When that was seen last, by the monotonic clock in seconds."""
    is_written: bool
    """False if it was only created, which a link into place is, too."""


class _Reader(InotifyFD):
    """watchdog's reader, without what nobody wants to hear of: each result is some ten events."""

    _inotify_fd = -1

    def __init__(self, may_matter: Callable[[str], bool], is_busy: Callable[[], bool]) -> None:
        try:
            super().__init__()
        except OSError:
            if self._inotify_fd >= 0:  # there was no descriptor left for the pipe beside it
                os.close(self._inotify_fd)
            raise
        if self._inotify_fd < 0:  # watchdog passes over EACCES
            raise _error(errno.EACCES)
        self._may_matter = may_matter
        self._is_busy = is_busy

    def read_events(self, *, event_buffer_size: int = _BUFFER_BYTES) -> list[InotifyEvent]:
        """Return the events of directories, of the watch itself, and of files that may matter."""
        if self._is_busy():
            # Most are of results, and to look at each at once takes the interpreter from those who
            # make them.
            time.sleep(_NAP_SECONDS)
        return [
            InotifyEvent(wd, mask, cookie, name)
            for wd, mask, cookie, name in self._parse_event_buffer(
                self._read_event_buffer(event_buffer_size)
            )
            if (wd != -1 or mask & InotifyConstants.IN_Q_OVERFLOW)
            and (
                not name
                or mask & InotifyConstants.IN_ISDIR
                or name == _ATOMIC_WRITER_LINK
                or (name[0] != _DOT and self._may_matter(os.fsdecode(name)))
            )
        ]


class Watcher:
    """Watches directory trees. Opens an inotify instance when the first one is to be watched.

    ``may_matter(name)`` says whether a file of that name may matter to anybody; ``is_busy()``
    whether so many drops wait that others may come a moment later; ``is_unreadable(path)`` whether
    a file could not be read so far, so that a new mode or owner matters.
    ``on_file(path)`` is called with files that were created, closed after writing, or renamed into
    place; :meth:`unclosed` tells them apart. ``on_apart(path)`` is called with those on another
    filesystem than their tree's root, which may hang when they are looked at.
    ``on_directory(path)`` hears of directories whose content must be looked through, and that are
    to be added with :meth:`add`. ``on_lost(reason)`` hears that events were lost.
    """

    def __init__(
        self,
        may_matter: Callable[[str], bool],
        is_busy: Callable[[], bool],
        is_unreadable: Callable[[str], bool],
        on_file: Callable[[str], None],
        on_apart: Callable[[str], None],
        on_directory: Callable[[str], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._is_unreadable = is_unreadable
        self._on_file = on_file
        self._on_apart = on_apart
        self._on_directory = on_directory
        self._on_lost = on_lost
        self._make_reader = partial(_Reader, may_matter, is_busy)
        self._inotify: _Reader | None = None
        self._lock = threading.Lock()
        self._trees: dict[str, _Tree] = {}
        self._unclosed: OrderedDict[str, UnclosedFile] = OrderedDict()
        self.heartbeat = Heartbeat()
        self._echo: _Echo | None = None
        self.stopping = False
        """Whether watches that end now do so because :meth:`stop` ends them."""

    def start(self) -> None:
        """Begin to deliver events, if that has not begun.

        Raises ``OSError``: ``EMFILE`` if the user has no inotify instance left, or the process no
        descriptor; ``ENOSYS`` or ``EPERM`` if inotify can't be used here.
        """
        with self._lock:
            if self._inotify is None and not self.stopping:
                inotify = self._make_reader()
                inotify.start()
                self._echo = _Echo(inotify, self.heartbeat)
                self._inotify = inotify

    def watch(self, root: str) -> None:
        """Watch ``root``, which others can't replace, and what is added below it.

        Raises ``OSError`` as :meth:`start` does, and with ``ENOSPC`` if the user has no inotify
        watch left.
        """
        self.start()
        fd = openat2.open_directory(root, "")
        try:
            identity = _identity_of(fd)
            tree = self._trees.get(root)
            if tree is None or tree.identity != identity:
                tree = self._trees[root] = _Tree(self, root, identity)
            tree.add(root, fd)
        finally:
            os.close(fd)

    def add(self, path: str, fd: int) -> None:
        """Watch the directory open at ``fd``, which is at ``path`` below a root that is watched.

        Raises ``OSError`` as :meth:`watch` does.
        """
        for root, tree in list(self._trees.items()):
            if path.startswith(f"{root}/"):
                tree.add(path, fd)

    def unclosed(self, path: str) -> UnclosedFile | None:
        """Return when a file that is open for writing changed last; None if none is known to be."""
        return self._unclosed.get(path)

    def ping(self) -> None:
        """Ask the reading thread for a sign of life, if there is one."""
        if self._echo is not None:
            self._echo.call()

    def stop(self) -> None:
        """Stop; no callback comes after this returns."""
        with self._lock:
            self.stopping = True
        if self._inotify is not None and self._echo is not None:
            self._inotify.stop()
            self._inotify.join()
            self._echo.close()

    def _hear(self, event: InotifyEvent, directory: str, is_apart: bool) -> None:
        if event.name == _ATOMIC_WRITER_LINK:
            self._on_directory(directory)
            return
        name = os.fsdecode(event.name)
        if not name or is_ignored(name):
            return
        path = f"{directory}/{name}"
        if event.is_directory:
            self._on_directory(path)
            return
        self._note_writer(path, event)
        if event.is_modify:
            return  # the close is the event to act on
        if event.is_attrib and not self._is_unreadable(path):
            return
        if is_apart:
            self._on_apart(path)
        else:
            with openat2.staying_on_mounts():
                self._on_file(path)

    def _note_writer(self, path: str, event: InotifyEvent) -> None:
        if event.is_modify or event.is_create:
            self._unclosed.pop(path, None)  # to be the youngest
            self._unclosed[path] = UnclosedFile(time.monotonic(), event.is_modify)
            if len(self._unclosed) > _MOST_UNCLOSED:
                self._unclosed.popitem(last=False)
        elif event.is_close_write or event.is_moved_to:
            self._unclosed.pop(path, None)

    def _lost(self, reason: str) -> None:
        self._unclosed.clear()  # the close of any of them may be among what was lost
        self._on_lost(reason)

    def _add_watch(
        self, path: bytes, callback: "_Tree", callback_id: CallbackId
    ) -> WatchDescriptor:
        if self._inotify is None:
            raise _error(errno.EBADF)  # stopped before it began
        descriptor = self._inotify.add_callback(path, _MASK, callback, callback_id)
        if descriptor < 0:  # watchdog passes over EACCES
            raise _error(errno.EACCES)
        return descriptor


class _Tree:
    """One watched root; watchdog calls its methods (a ``WatchCallback``)."""

    def __init__(self, watcher: Watcher, root: str, identity: tuple[int, int]) -> None:
        self.identity = identity
        self._watcher = watcher
        self._root = root
        self._directories: dict[WatchDescriptor, tuple[str, bool]] = {}
        """Each with whether it is on another filesystem."""
        self._lock = threading.Lock()

    def add(self, path: str, fd: int) -> None:
        # The very directory that is open, whatever has its name by now.
        descriptor = self._watcher._add_watch(  # noqa: SLF001 - one module
            f"/proc/self/fd/{fd}".encode(), self, CallbackId(id(self))
        )
        with self._lock:
            self._directories[descriptor] = path, os.fstat(fd).st_dev != self.identity[0]

    def on_event(self, event: InotifyEvent) -> None:
        """Hear of one event."""
        with self._lock:
            found = self._directories.get(event.wd)
        if found is None:
            return
        path, is_apart = found
        try:
            self._watcher._hear(event, path, is_apart)  # noqa: SLF001
        except Exception:  # noqa: BLE001 - see the next line
            # An exception would end watchdog's thread, and with it all watching.
            _log.exception("watch-event-failed", path=path)
            self._watcher._lost("an event could not be handled")  # noqa: SLF001

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Hear that a watched directory is gone."""
        with self._lock:
            path, _is_apart = self._directories.pop(wd, ("", False))
        if path == self._root and not self._watcher.stopping:
            self._watcher._lost(f"{path} is gone")  # noqa: SLF001

    def on_queue_overflow(self) -> None:
        """Hear that the kernel dropped events."""
        self._watcher._lost("the kernel's event queue overflowed")  # noqa: SLF001


class _Echo:
    """A file in memory whose changes the thread hears of, by the same queue as all others."""

    def __init__(self, inotify: InotifyFD, heartbeat: Heartbeat) -> None:
        self._inotify = inotify
        self._heartbeat = heartbeat
        self._fd = -1

    def call(self) -> None:
        # Made when first asked for: most daemons are never asked. Without a descriptor or a watch
        # for it, no answer is awaited.
        if self._fd < 0:
            with contextlib.suppress(OSError):
                self._open()
        if self._fd >= 0:
            os.pwrite(self._fd, b".", 0)

    def _open(self) -> None:
        unopened = os.memfd_create("wasmdrop-echo")
        try:
            # Opened once more: since Linux 6.14 a descriptor that no open(2) made raises no events.
            self._fd = os.open(f"/proc/self/fd/{unopened}", os.O_WRONLY | os.O_CLOEXEC)
        finally:
            os.close(unopened)
        path = f"/proc/self/fd/{self._fd}"
        self._inotify.add_callback(
            path.encode(), Mask(InotifyConstants.IN_MODIFY), self, CallbackId(id(self))
        )

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def on_event(self, _event: InotifyEvent) -> None:
        self._heartbeat.beat()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Nothing to do: this is how every watch ends when the watcher stops."""

    def on_queue_overflow(self) -> None:
        """Nothing to do: the trees say it."""


def why_unwatched(error: OSError) -> str:
    """Return why a directory can't be watched, and which limit to raise."""
    match error.errno:
        case errno.ENOSPC:
            return (
                "this user has no inotify watches left: raise the sysctl"
                " fs.inotify.max_user_watches"
            )
        case errno.EMFILE if _has_descriptors():
            return (
                "this user, in all of its containers together, has no inotify instances left: raise"
                " the sysctl fs.inotify.max_user_instances"
            )
        case errno.EMFILE:
            return "this process may open no more files: raise `ulimit -n` (LimitNOFILE=)"
        case errno.ENOSYS:
            return "this kernel has no inotify"
        case errno.EPERM:
            return "a filter of system calls forbids inotify: allow it in the container's profile"
    return f"it can't be watched: {error.strerror or error}"


def _has_descriptors() -> bool:
    try:
        os.close(os.dup(0))
    except OSError as error:
        return error.errno != errno.EMFILE
    return True


def _identity_of(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
