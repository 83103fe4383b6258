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
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

from wasmdrop.layout import is_ignored
from wasmdrop.metrics import Pulse
from wasmdrop.mounts import MountTable

__all__ = ["Watcher", "reason_to_poll"]

_log = structlog.get_logger()

# A directory that was renamed is watched already, under its old path: adding it again tells us the
# new one, which is what we want and what watchdog warns of.
warnings.filterwarnings("ignore", "Callback with id .* already exists", RuntimeWarning)

_MASK: Final = Mask(
    InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_ONLYDIR
)

#: What a ConfigMap or Secret volume swaps to show new content (Kubernetes' atomic writer).
_ATOMIC_WRITER_LINK: Final = b"..data"

_DOT: Final = ord(".")

#: What is read of the kernel's queue at once: more events than it holds by default.
_BUFFER_BYTES: Final = 64 * 1024

#: How long to leave events where they are while many drops wait, in seconds: less than those take.
_NAP_SECONDS: Final = 0.010

#: Filesystems whose changes from elsewhere raise no event here.
_SILENT: Final = ("9p", "afs", "ceph", "cifs", "fuse", "gpfs", "lustre", "nfs", "smb", "virtiofs")


class _Reader(InotifyFD):
    """watchdog's reader, without what nobody wants to hear of: each result is some ten events."""

    def __init__(self, may_matter: Callable[[str], bool], is_busy: Callable[[], bool]) -> None:
        super().__init__()
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
    """Watches directory trees.

    ``may_matter(name)`` says whether a file of that name may matter to anybody; ``is_busy()``
    whether so many drops wait that others may come a moment later.
    ``on_file(path, created)`` hears of files: those only just created may still be written, others
    were closed after writing or renamed into place. ``on_directory(path)`` hears of directories
    whose content must be looked through. ``on_lost(reason)`` hears that events were lost.
    """

    def __init__(
        self,
        may_matter: Callable[[str], bool],
        is_busy: Callable[[], bool],
        on_file: Callable[[str, bool], None],
        on_directory: Callable[[str], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._on_file = on_file
        self._on_directory = on_directory
        self._on_lost = on_lost
        self._inotify = _Reader(may_matter, is_busy)
        self._trees: list[_Tree] = []
        self.pulse = Pulse()
        self._echo = _Echo(self._inotify, self.pulse)
        self.stopping = False
        """Whether watches that end now do so because :meth:`stop` ends them."""

    def start(self) -> None:
        """Begin to deliver events."""
        self._inotify.start()

    def watch(self, root: str, max_depth: int) -> None:
        """Watch ``root`` and the directories below it, down to ``max_depth`` of them.

        Raises ``OSError``: ``ENOSPC`` where the kernel allows no more watches.
        """
        tree = _Tree(self, root, max_depth)
        self._trees.append(tree)
        tree.add(root)

    def ping(self) -> None:
        """Ask the reading thread for a sign of life."""
        self._echo.call()

    def stop(self) -> None:
        """Stop; no callback comes after this returns."""
        self.stopping = True
        self._inotify.stop()
        self._inotify.join()
        self._echo.close()

    def _hear(self, tree: "_Tree", event: InotifyEvent, directory: str) -> None:
        if event.name == _ATOMIC_WRITER_LINK:
            self._on_directory(directory)
            return
        name = os.fsdecode(event.name)
        if not name or is_ignored(name):
            return
        path = f"{directory}/{name}"
        if not event.is_directory:
            self._on_file(path, event.is_create)
            return
        try:
            tree.add(path)
        except OSError as error:
            self._lost(f"{path} can't be watched: {error.strerror}")
        # Only now: whatever appeared before the watch was there raised no event.
        self._on_directory(path)
        self._on_file(path, False)  # a directory may bear the name of an input

    def _lost(self, reason: str) -> None:
        self._on_lost(reason)


class _Tree:
    """One watched root; watchdog calls its methods (a ``WatchCallback``)."""

    def __init__(self, watcher: Watcher, root: str, max_depth: int) -> None:
        self._watcher = watcher
        self._root = root
        self._max_depth = max_depth
        self._paths: dict[WatchDescriptor, str] = {}
        self._lock = threading.Lock()

    def add(self, directory: str) -> None:
        """Watch ``directory`` and what is below it."""
        pending = [directory]
        while pending:
            path = pending.pop()
            depth = path.count("/") - self._root.count("/")
            if depth > self._max_depth:
                continue
            if self._add_one(path):
                pending += _directories_in(path)

    def _add_one(self, path: str) -> bool:
        try:
            descriptor = self._watcher._inotify.add_callback(  # noqa: SLF001 - one module
                os.fsencode(path), _MASK, self, CallbackId(id(self))
            )
        except OSError as error:
            # It is gone again, or was never a directory: its parent's events tell the rest.
            if path != self._root and error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise
        with self._lock:
            self._paths[descriptor] = path
        return True

    def on_event(self, event: InotifyEvent) -> None:
        """Hear of one event."""
        with self._lock:
            directory = self._paths.get(event.wd)
        if directory is None:
            return
        try:
            self._watcher._hear(self, event, directory)  # noqa: SLF001
        except Exception:  # noqa: BLE001 - see the next line
            # An exception would end watchdog's thread, and with it all watching.
            _log.exception("watch-failed", path=directory)
            self._watcher._lost("an event could not be handled")  # noqa: SLF001

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Hear that a watched directory is gone."""
        with self._lock:
            path = self._paths.pop(wd, None)
        if path == self._root and not self._watcher.stopping:
            self._watcher._lost(f"{path} is gone")  # noqa: SLF001

    def on_queue_overflow(self) -> None:
        """Hear that the kernel dropped events."""
        self._watcher._lost("the kernel's event queue overflowed")  # noqa: SLF001


class _Echo:
    """A file in memory whose changes the thread hears of, by the same queue as all others."""

    def __init__(self, inotify: InotifyFD, pulse: Pulse) -> None:
        self._inotify = inotify
        self._pulse = pulse
        self._fd = -1

    def call(self) -> None:
        if self._fd < 0:  # made when first asked for: most daemons are never asked
            unopened = os.memfd_create("wasmdrop-echo")
            path = f"/proc/self/fd/{unopened}"
            # Opened once more: since Linux 6.14 a descriptor that no open(2) made raises no events.
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # where there is no watch, no answer is awaited
                self._inotify.add_callback(
                    path.encode(), Mask(InotifyConstants.IN_MODIFY), self, CallbackId(id(self))
                )
            os.close(unopened)
        os.pwrite(self._fd, b".", 0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def on_event(self, _event: InotifyEvent) -> None:
        self._pulse.beat()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Nothing to do: this is how every watch ends when the watcher stops."""

    def on_queue_overflow(self) -> None:
        """Nothing to do: the trees say it."""


def _directories_in(path: str) -> Iterable[str]:
    try:
        with os.scandir(path) as entries:
            return [
                entry.path
                for entry in entries
                if not is_ignored(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def reason_to_poll(directory: str) -> str | None:
    """Return why changes below ``directory`` may raise no events here; None where they do."""
    table = MountTable()
    try:
        kind = table.of(os.path.realpath(directory)).kind
    finally:
        table.close()
    if kind.startswith(_SILENT):
        return f"{kind} raises no events for changes made elsewhere"
    return None
