"""The scanner: looks for what events did not tell of, and looks again when it was asked to.

It walks through everything at start, when events were lost, and every so often; through one
directory after a volume was swapped; and looks at one path after a time. Each mount has a thread of
its own, so that one that hangs holds up no other.
"""

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from wasmdrop.intake.layout import Layout, is_ignored
from wasmdrop.intake.scan_scheduler import ScanScheduler, Steps
from wasmdrop.intake.tree_walk import EntryBatch, walk
from wasmdrop.system import openat2
from wasmdrop.system.durable_files import is_stale_temporary
from wasmdrop.system.mount_table import MountTable
from wasmdrop.system.tree_removal import is_daemon_directory, remove_tree

__all__ = ["FoundFile", "Scanner"]

_log = structlog.get_logger()

#: How long the first walk through another mount is waited for, in seconds.
_FIRST_WALK_SECONDS: Final = 10.0

#: How long a stop waits for a look that has begun, in seconds; one that hangs is left.
_STOP_SECONDS: Final = 2.0

#: A file that was found: its path and its status.
FoundFile = tuple[str, os.stat_result]


class Scanner:
    """Calls ``on_file(path)`` for what lies in the directories of ``layout``.

    ``are_new`` returns the paths of those of some files that need a look. ``on_directory(path,
    fd)`` is called with directories that may be new, each before it is listed. Every
    ``period_seconds`` everything is walked through; ``on_walk`` is called before each walk but the
    first, ``on_too_deep(path)`` with directories that are left out because they lie more than
    ``max_depth`` levels deep. Callbacks come on several threads.
    """

    def __init__(
        self,
        layout: Layout,
        on_file: Callable[[str], None],
        are_new: Callable[[list[FoundFile]], Iterable[str]],
        on_directory: Callable[[str, int], None],
        period_seconds: float,
        max_depth: int,
        on_walk: Callable[[], None] = lambda: None,
        on_too_deep: Callable[[str], None] = lambda _path: None,
    ) -> None:
        self.scans = 0
        """Walks through everything so far."""
        self._layout = layout
        self._on_file = on_file
        self._are_new = are_new
        self._on_directory = on_directory
        self.period_seconds = period_seconds
        """How often everything is walked through."""
        self._max_depth = max_depth
        self._on_walk = on_walk
        self._on_too_deep = on_too_deep
        self._lock = threading.Lock()
        self._mounts = MountTable()
        self._schedulers: dict[str, ScanScheduler] = {}
        self._is_first = True
        self._stopping = False
        self._home = self._scheduler_of(layout.shared_dir)

    def start(self) -> None:
        """Walk through everything, then go on with it in threads.

        What an earlier daemon left under temporary names is removed on the way.
        """
        with openat2.staying_on_mounts():
            for _ in self._everything():
                pass
        end = time.monotonic() + _FIRST_WALK_SECONDS
        for point, scheduler in list(self._schedulers.items()):
            if scheduler is not self._home and not scheduler.idle.wait(
                max(0.0, end - time.monotonic())
            ):
                _log.warning("mount-stalled", mount=point)
        self._is_first = False
        self._home.schedule(self.period_seconds, None)
        self._home.start()

    def stop(self) -> None:
        """End the threads; no call of ``on_file`` begins after this returns."""
        with self._lock:
            self._stopping = True
            schedulers = list(self._schedulers.values())
        for scheduler in schedulers:
            scheduler.stop()
        end = time.monotonic() + _STOP_SECONDS
        for scheduler in schedulers:
            scheduler.join(max(0.0, end - time.monotonic()))
        with self._lock:
            self._mounts.close()

    def scan_soon(self) -> None:
        """Walk through everything as soon as there is time."""
        self._home.schedule(0.0, None)

    def scan_every(self, seconds: float) -> None:
        """Walk through everything at least this often from now on."""
        self.period_seconds = min(self.period_seconds, seconds)
        self._home.schedule(self.period_seconds, None)

    def recheck(self, path: str, seconds: float) -> None:
        """Look at ``path``, a file or a directory, once more after ``seconds``."""
        self._scheduler_of(path).schedule(seconds, path)

    def _begin(self, path: str | None) -> Steps:
        if path is None:
            self._on_walk()
            yield from self._everything()
            self._home.schedule(self.period_seconds, None)
            return
        self._look(path)  # a directory may bear the name of an input
        place = self._layout.rooted(path)
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(openat2.lstat(place.root, place.relative).st_mode):
                yield from self._walk(path, is_new=True)

    def _everything(self) -> Steps:
        """Walk through everything, inputs before modules.

        An input that was dropped together with its module then finds it, and the module's own drop
        has nothing left to run.
        """
        self.scans += 1
        layout = self._layout
        yield from self._walk(layout.shared_dir, is_new=self._is_first)
        self._look(layout.root_slot.input_path)
        if layout.wasm_dir != layout.shared_dir:
            if self._is_first or self._scheduler_of(layout.wasm_dir) is self._home:
                yield from self._walk(layout.wasm_dir, is_new=self._is_first)
            else:
                self.recheck(layout.wasm_dir, 0.0)
        self._look(layout.wasm_path)

    def _walk(self, path: str, *, is_new: bool) -> Steps:
        place = self._layout.rooted(path)
        depth = (
            self._max_depth - len(place.relative.split("/")) if place.relative else self._max_depth
        )
        if depth < 0:
            self._on_too_deep(path)
            return
        on_open = self._on_directory if is_new else _ignore
        for batch in walk(place, depth, self._is_mount, on_open, self._on_mount, self._on_too_deep):
            if self._is_first:
                _sweep(batch)
            self._report(batch)
            yield

    def _report(self, batch: EntryBatch) -> None:
        statuses = batch.statuses(self._may_be_drop)
        found = [(f"{batch.path}/{name}", status) for name, status in statuses]
        for path in sorted(self._are_new(found), key=self._layout.is_module):
            self._look(path)

    def _may_be_drop(self, name: str) -> bool:
        return self._layout.may_matter(name) and not is_ignored(name)

    def _look(self, path: str) -> None:
        if not self._stopping:
            self._on_file(path)

    def _is_mount(self, path: str) -> bool:
        """Whether something is mounted there, which is then walked through beside this."""
        with self._lock:
            if self._stopping or path not in self._mounts.points():
                return False
        self.recheck(path, 0.0)
        return True

    def _on_mount(self, path: str) -> None:
        """Look at a mount that the table does not show there: it was moved with its directory."""
        with self._lock:
            if self._stopping:
                return
            self._mounts.read_again()
        self._is_mount(path)

    def _scheduler_of(self, path: str) -> ScanScheduler:
        with self._lock:
            if self._stopping:
                return self._home  # which begins nothing any more
            point = self._mounts.of(path).point
            scheduler = self._schedulers.get(point)
            if scheduler is None:
                is_home = not self._schedulers
                context = openat2.staying_on_mounts() if is_home else None
                scheduler = self._schedulers[point] = ScanScheduler(point, self._begin, context)
                if not is_home:
                    scheduler.start()
            return scheduler


def _ignore(_path: str, _fd: int) -> None:
    pass


def _sweep(batch: EntryBatch) -> None:
    """Remove what an earlier daemon left; what others gave such a name stays."""
    for name, status in batch.statuses(is_stale_temporary):
        path = f"{batch.path}/{name}"
        try:
            if is_daemon_directory(status):
                remove_tree(batch.fd, name, only_own=True)
            elif stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                os.unlink(name, dir_fd=batch.fd)
            else:
                continue
            _log.info("leftover-removed", path=path)
        except OSError as error:
            _log.warning("leftover-removal-failed", path=path, error=str(error))
