"""The watcher: reports paths that changed below the watched directories.

It opens and judges no file. Events are hints: the receiver of a path looks at the file.
Callbacks come on one thread, in the order of the events.
"""

import contextlib
import errno
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from wasmdrop.intake.layout import is_ignored
from wasmdrop.intake.watchdog_adapter import (
    ATOMIC_WRITER_LINK,
    InotifyEvent,
    InotifyReader,
    WatchDescriptor,
)
from wasmdrop.intake.write_detection import UnclosedFile
from wasmdrop.system import openat2
from wasmdrop.system.heartbeat import Heartbeat

_log = structlog.get_logger()

#: Most files open for writing that are remembered; each takes about 200 bytes.
_MAX_UNCLOSED: Final = 10_000


class Watcher:
    """Watches directory trees with one inotify instance, which the first tree opens.

    ``may_matter(name)`` and ``is_busy()``: see :class:`InotifyReader`. ``is_unreadable(path)`` says
    whether a file could not be read so far, so that a new mode or owner matters.

    ``on_file(path)`` is called with files that were created, closed after writing, or renamed into
    place; :meth:`unclosed` tells them apart. ``on_removed(path, is_directory)`` is called with
    files and directories that were removed or renamed away. ``recheck(path)`` is called with files
    on another filesystem than the root of their tree, where a look may hang, and with directories
    to scan and to :meth:`add`. ``on_lost(reason)`` is called when events were lost.
    """

    def __init__(
        self,
        may_matter: Callable[[str], bool],
        is_busy: Callable[[], bool],
        is_unreadable: Callable[[str], bool],
        on_file: Callable[[str], None],
        on_removed: Callable[[str, bool], None],
        recheck: Callable[[str], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._is_unreadable = is_unreadable
        self._on_file = on_file
        self._on_removed = on_removed
        self._recheck = recheck
        self._on_lost = on_lost
        self._make_reader = partial(InotifyReader, may_matter, is_busy, self._owner_of)
        self._reader: InotifyReader | None = None
        self._lock = threading.Lock()
        self._trees: dict[str, _WatchedTree] = {}
        self._unclosed: OrderedDict[str, UnclosedFile] = OrderedDict()
        self.heartbeat = Heartbeat()
        self._liveness_probe: _LivenessProbe | None = None
        self.stopping = False
        """Whether :meth:`stop` is the reason why watches end now."""

    def start(self) -> None:
        """Open the inotify instance and start its thread, if that has not happened yet.

        Raises ``OSError`` as :class:`InotifyReader` does.
        """
        with self._lock:
            if self._reader is None and not self.stopping:
                reader = self._make_reader()
                reader.start()
                self._liveness_probe = _LivenessProbe(reader, self.heartbeat)
                self._reader = reader

    def watch(self, root: str) -> None:
        """Watch the directory ``root``, which only the operator can replace.

        Raises ``OSError`` as :meth:`start` does, and with ``ENOSPC`` if the user has no inotify
        watch left.
        """
        self.start()
        fd = openat2.open_directory(root, "")
        try:
            identity = _identity_of(fd)
            tree = self._trees.get(root)
            if tree is None or tree.identity != identity:
                tree = self._trees[root] = _WatchedTree(self, root, identity)
            tree.add(root, fd)
        finally:
            os.close(fd)

    def add(self, path: str, fd: int) -> None:
        """Watch the directory open at ``fd``, which is at ``path`` below a watched root.

        Raises ``OSError`` as :meth:`watch` does.
        """
        for root, tree in list(self._trees.items()):
            if path.startswith(f"{root}/"):
                tree.add(path, fd)

    def unclosed(self, path: str) -> UnclosedFile | None:
        """Return the record of a file that changed and was not closed since, if there is one."""
        return self._unclosed.get(path)

    def ping(self) -> None:
        """Make the reading thread beat, if there is such a thread."""
        if self._liveness_probe is not None:
            self._liveness_probe.send()

    def stop(self) -> None:
        """Stop. No callback comes after this returns."""
        with self._lock:
            self.stopping = True
        if self._reader is not None and self._liveness_probe is not None:
            self._reader.stop()
            self._reader.join()
            self._liveness_probe.close()

    def _owner_of(self, descriptor: WatchDescriptor) -> str:
        """Return the top directory that a watched directory is below; the root is its own."""
        for tree in list(self._trees.values()):
            path = tree.path_of(descriptor)
            if path is not None:
                return path.removeprefix(tree.root).lstrip("/").partition("/")[0]
        return ""

    def _handle(self, event: InotifyEvent, directory: str, is_other_mount: bool) -> None:
        if event.name == ATOMIC_WRITER_LINK:
            self._recheck(directory)
            return
        name = os.fsdecode(event.name)
        if not name or is_ignored(name):
            return
        path = f"{directory}/{name}"
        if event.is_delete or event.is_moved_from:
            self._on_removed(path, event.is_directory)
            return
        if event.is_directory:
            self._recheck(path)
            return
        self._note_writer(path, event)
        if event.is_modify:
            return  # its close is the event to act on
        if event.is_attrib and not self._is_unreadable(path):
            return
        if is_other_mount:
            self._recheck(path)
        else:
            with openat2.staying_on_mounts():
                self._on_file(path)

    def _note_writer(self, path: str, event: InotifyEvent) -> None:
        if event.is_modify or event.is_create:
            self._unclosed.pop(path, None)  # so that it becomes the youngest
            self._unclosed[path] = UnclosedFile(time.monotonic(), event.is_modify)
            if len(self._unclosed) > _MAX_UNCLOSED:
                self._unclosed.popitem(last=False)
        elif event.is_close_write or event.is_moved_to:
            self._unclosed.pop(path, None)

    def _report_loss(self, reason: str) -> None:
        self._unclosed.clear()  # the close of any of them may be among the lost events
        self._on_lost(reason)

    def _add_watch(self, path: bytes, tree: "_WatchedTree") -> WatchDescriptor:
        if self._reader is None:  # stopped before it started
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._reader.watch_directory(path, tree)


class _WatchedTree:
    """One watched root. watchdog calls its ``on_`` methods."""

    def __init__(self, watcher: Watcher, root: str, identity: tuple[int, int]) -> None:
        self.identity = identity
        self._watcher = watcher
        self.root = root
        self._directories: dict[WatchDescriptor, tuple[str, bool]] = {}
        """Path of each, and whether it is on another filesystem than the root."""
        self._lock = threading.Lock()

    def add(self, path: str, fd: int) -> None:
        # By descriptor: another directory may have the path by now.
        link = f"/proc/self/fd/{fd}".encode()
        descriptor = self._watcher._add_watch(link, self)  # noqa: SLF001 - one module
        with self._lock:
            self._directories[descriptor] = path, os.fstat(fd).st_dev != self.identity[0]

    def path_of(self, descriptor: WatchDescriptor) -> str | None:
        with self._lock:
            found = self._directories.get(descriptor)
        return None if found is None else found[0]

    def on_event(self, event: InotifyEvent) -> None:
        with self._lock:
            found = self._directories.get(event.wd)
        if found is None:
            return
        path, is_other_mount = found
        try:
            self._watcher._handle(event, path, is_other_mount)  # noqa: SLF001
        except Exception:  # noqa: BLE001 - an exception would end watchdog's thread
            _log.exception("watch-event-failed", path=path)
            self._watcher._report_loss("an event could not be handled")  # noqa: SLF001

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        with self._lock:
            path, _is_other_mount = self._directories.pop(wd, ("", False))
        if path == self.root and not self._watcher.stopping:
            self._watcher._report_loss(f"{path} is gone")  # noqa: SLF001

    def on_queue_overflow(self) -> None:
        self._watcher._report_loss("the kernel's event queue overflowed")  # noqa: SLF001


class _LivenessProbe:
    """A file in memory. A write to it is an event in the same queue as all others."""

    def __init__(self, reader: InotifyReader, heartbeat: Heartbeat) -> None:
        self._reader = reader
        self._heartbeat = heartbeat
        self._fd = -1

    def send(self) -> None:
        # Opened on first use: most daemons are never probed. Without a descriptor or a watch for
        # it, no answer is expected.
        if self._fd < 0:
            with contextlib.suppress(OSError):
                self._open()
        if self._fd >= 0:
            os.pwrite(self._fd, b".", 0)

    def _open(self) -> None:
        memory = os.memfd_create("wasmdrop-liveness")
        try:
            # Since Linux 6.14 only a descriptor from open(2) raises events.
            self._fd = os.open(f"/proc/self/fd/{memory}", os.O_WRONLY | os.O_CLOEXEC)
        finally:
            os.close(memory)
        self._reader.watch_file(f"/proc/self/fd/{self._fd}".encode(), self)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def on_event(self, _event: InotifyEvent) -> None:
        self._heartbeat.beat()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Do nothing: every watch ends this way when the watcher stops."""

    def on_queue_overflow(self) -> None:
        """Do nothing: the trees report it."""


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
