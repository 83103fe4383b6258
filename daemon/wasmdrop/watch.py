"""The watcher: notices paths below the watched directories. It never opens or judges anything.

Events are hints: whoever hears of a path looks for itself. Uses watchdog's inotify descriptor and
its bookkeeping of watches, below watchdog's own observers: those pair the two halves of a rename
and hold every later event back for half a second while a half is missing, which is what happens
whenever a consumer moves a result out of the tree.

Callbacks come on watchdog's reading thread, in the order of the events.
"""

import contextlib
import os
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
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

from wasmdrop import beneath
from wasmdrop.layout import is_ignored
from wasmdrop.metrics import Pulse

__all__ = ["Unclosed", "Watcher"]

_log = structlog.get_logger()

# A directory that was renamed is watched already, under its old path: adding it again tells us the
# new one, which is what we want and what watchdog warns of.
warnings.filterwarnings("ignore", "Callback with id .* already exists", RuntimeWarning)

_MASK: Final = Mask(
    InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MODIFY
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


class Unclosed(NamedTuple):
    """A file that was created or written to, and not closed after writing since."""

    changed_at: float
    """When that was seen last, by the monotonic clock in seconds."""
    is_written: bool
    """False if it was only created, which a link into place is, too."""


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
        on_file: Callable[[str], None],
        on_apart: Callable[[str], None],
        on_directory: Callable[[str], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._on_file = on_file
        self._on_apart = on_apart
        self._on_directory = on_directory
        self._on_lost = on_lost
        self._inotify = _Reader(may_matter, is_busy)
        self._trees: dict[str, _Tree] = {}
        self._unclosed: OrderedDict[str, Unclosed] = OrderedDict()
        self.pulse = Pulse()
        self._echo = _Echo(self._inotify, self.pulse)
        self.stopping = False
        """Whether watches that end now do so because :meth:`stop` ends them."""

    def start(self) -> None:
        """Begin to deliver events."""
        self._inotify.start()

    def watch(self, root: str) -> None:
        """Watch ``root``, which others can't replace, and what is added below it.

        Raises ``OSError``: ``ENOSPC`` where the kernel allows no more watches.
        """
        fd = beneath.open_directory(root, "")
        try:
            tree = self._trees[root] = _Tree(self, root, os.fstat(fd).st_dev)
            tree.add(root, fd)
        finally:
            os.close(fd)

    def add(self, path: str, fd: int) -> None:
        """Watch the directory open at ``fd``, which is at ``path`` below a root that is watched.

        Raises ``OSError`` as :meth:`watch` does.
        """
        for root, tree in self._trees.items():
            if path.startswith(f"{root}/"):
                tree.add(path, fd)

    def unclosed(self, path: str) -> Unclosed | None:
        """Return when a file that is open for writing changed last; None if none is known to be."""
        return self._unclosed.get(path)

    def ping(self) -> None:
        """Ask the reading thread for a sign of life."""
        self._echo.call()

    def stop(self) -> None:
        """Stop; no callback comes after this returns."""
        self.stopping = True
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
        if is_apart:
            self._on_apart(path)
        else:
            with beneath.staying_on_mounts():
                self._on_file(path)

    def _note_writer(self, path: str, event: InotifyEvent) -> None:
        if event.is_modify or event.is_create:
            self._unclosed.pop(path, None)  # to be the youngest
            self._unclosed[path] = Unclosed(time.monotonic(), event.is_modify)
            if len(self._unclosed) > _MOST_UNCLOSED:
                self._unclosed.popitem(last=False)
        elif event.is_close_write or event.is_moved_to:
            self._unclosed.pop(path, None)

    def _lost(self, reason: str) -> None:
        self._unclosed.clear()  # the close of any of them may be among what was lost
        self._on_lost(reason)


class _Tree:
    """One watched root; watchdog calls its methods (a ``WatchCallback``)."""

    def __init__(self, watcher: Watcher, root: str, device: int) -> None:
        self._watcher = watcher
        self._root = root
        self._device = device
        self._directories: dict[WatchDescriptor, tuple[str, bool]] = {}
        """Each with whether it is on another filesystem."""
        self._lock = threading.Lock()

    def add(self, path: str, fd: int) -> None:
        # The very directory that is open, whatever has its name by now.
        descriptor = self._watcher._inotify.add_callback(  # noqa: SLF001 - one module
            f"/proc/self/fd/{fd}".encode(), _MASK, self, CallbackId(id(self))
        )
        with self._lock:
            self._directories[descriptor] = path, os.fstat(fd).st_dev != self._device

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
            _log.exception("watch-failed", path=path)
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

    def __init__(self, inotify: InotifyFD, pulse: Pulse) -> None:
        self._inotify = inotify
        self._pulse = pulse
        self._fd = -1

    def call(self) -> None:
        if self._fd < 0:  # made when first asked for: most daemons are never asked
            unopened = os.memfd_create("wasmdrop-echo")
            # Opened once more: since Linux 6.14 a descriptor that no open(2) made raises no events.
            self._fd = os.open(f"/proc/self/fd/{unopened}", os.O_WRONLY | os.O_CLOEXEC)
            path = f"/proc/self/fd/{self._fd}"
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
