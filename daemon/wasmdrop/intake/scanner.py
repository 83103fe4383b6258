"""The scanner: finds files that raised no event, and looks at paths again later.

It scans everything at start, when events were lost, and periodically; one directory after a volume
was swapped; and one path after a delay. Each mount has a thread of its own, so that one that hangs
blocks no other.
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

_log = structlog.get_logger()

#: How long the start waits for the first scan of other mounts, in seconds.
_FIRST_SCAN_SECONDS: Final = 10.0

#: How long a stop waits for a step that runs, in seconds; a step that hangs is abandoned.
_STOP_SECONDS: Final = 2.0

#: The path of a file and its status (lstat(2)).
FoundFile = tuple[str, os.stat_result]


class Scanner:
    """Calls ``on_file(path)`` with files in the directories of ``layout``.

    ``new_among`` returns those paths of some files that need a look. ``on_directory(path, fd)`` is
    called with directories that may be new, each before it is listed. ``on_scan`` is called before
    each full scan but the first, ``on_too_deep(path)`` with directories that are left out because
    they are more than ``max_depth`` levels deep. Callbacks come on several threads.
    """

    def __init__(
        self,
        layout: Layout,
        on_file: Callable[[str], None],
        new_among: Callable[[list[FoundFile]], Iterable[str]],
        on_directory: Callable[[str, int], None],
        period_seconds: float,
        max_depth: int,
        on_scan: Callable[[], None] = lambda: None,
        on_too_deep: Callable[[str], None] = lambda _path: None,
    ) -> None:
        self.scans = 0
        """Full scans so far."""
        self._layout = layout
        self._on_file = on_file
        self._new_among = new_among
        self._on_directory = on_directory
        self.period_seconds = period_seconds
        """Time between full scans."""
        self._max_depth = max_depth
        self._on_scan = on_scan
        self._on_too_deep = on_too_deep
        self._lock = threading.Lock()
        self._mounts = MountTable()
        self._schedulers: dict[str, ScanScheduler] = {}
        self._is_first = True
        self._stopping = False
        self._home = self._scheduler_of(layout.shared_dir)

    def start(self) -> None:
        """Scan everything, then continue on threads.

        The first scan also removes temporary files of an earlier daemon.
        """
        with openat2.staying_on_mounts():
            for _ in self._scan_everything():
                pass
        end = time.monotonic() + _FIRST_SCAN_SECONDS
        for point, scheduler in list(self._schedulers.items()):
            left_seconds = max(0.0, end - time.monotonic())
            if scheduler is not self._home and not scheduler.idle.wait(left_seconds):
                _log.warning("mount-stalled", mount=point)
        self._is_first = False
        self._home.schedule(self.period_seconds, None)
        self._home.start()

    def stop(self) -> None:
        """End the threads. No call of ``on_file`` begins after this returns."""
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
        """Scan everything as soon as possible."""
        self._home.schedule(0.0, None)

    def scan_every(self, seconds: float) -> None:
        """Scan everything at least this often from now on."""
        self.period_seconds = min(self.period_seconds, seconds)
        self._home.schedule(self.period_seconds, None)

    def recheck(self, path: str, seconds: float) -> None:
        """Look at ``path``, a file or a directory, after ``seconds``."""
        self._scheduler_of(path).schedule(seconds, path)

    def _begin(self, path: str | None) -> Steps:
        if path is None:
            self._on_scan()
            yield from self._scan_everything()
            self._home.schedule(self.period_seconds, None)
            return
        self._look(path)  # first, because a directory may have the name of an input
        rooted = self._layout.rooted(path)
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(openat2.lstat(rooted.root, rooted.relative).st_mode):
                yield from self._scan(path, is_new=True)

    def _scan_everything(self) -> Steps:
        """Scan inputs before modules.

        An input that was dropped together with its module then finds the module, and the module's
        own drop has nothing left to run.
        """
        self.scans += 1
        layout = self._layout
        yield from self._scan(layout.shared_dir, is_new=self._is_first)
        self._look(layout.root_slot.input_path)
        if layout.wasm_dir != layout.shared_dir:
            if self._is_first or self._scheduler_of(layout.wasm_dir) is self._home:
                yield from self._scan(layout.wasm_dir, is_new=self._is_first)
            else:
                self.recheck(layout.wasm_dir, 0.0)
        self._look(layout.wasm_path)

    def _scan(self, path: str, *, is_new: bool) -> Steps:
        directory = self._layout.rooted(path)
        depth = self._max_depth - directory.depth
        if depth < 0:
            self._on_too_deep(path)
            return
        on_open = self._on_directory if is_new else _ignore
        for batch in walk(
            directory, depth, self._is_mount, on_open, self._on_mount, self._on_too_deep
        ):
            if self._is_first:
                _remove_leftovers(batch)
            self._report(batch)
            yield

    def _report(self, batch: EntryBatch) -> None:
        statuses = batch.statuses(self._may_be_drop)
        found = [(f"{batch.path}/{name}", status) for name, status in statuses]
        for path in sorted(self._new_among(found), key=self._layout.is_module):
            self._look(path)

    def _may_be_drop(self, name: str) -> bool:
        return self._layout.may_matter(name) and not is_ignored(name)

    def _look(self, path: str) -> None:
        if not self._stopping:
            self._on_file(path)

    def _is_mount(self, path: str) -> bool:
        """Return whether ``path`` is a mount; have it scanned on its own thread then."""
        with self._lock:
            if self._stopping or path not in self._mounts.points():
                return False
        self.recheck(path, 0.0)
        return True

    def _on_mount(self, path: str) -> None:
        """Handle a mount that the table lacks, because its directory was renamed."""
        with self._lock:
            if self._stopping:
                return
            self._mounts.read_again()
        self._is_mount(path)

    def _scheduler_of(self, path: str) -> ScanScheduler:
        with self._lock:
            if self._stopping:
                return self._home  # which starts nothing any more
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


def _remove_leftovers(batch: EntryBatch) -> None:
    """Remove temporary files of an earlier daemon; files of others with such names stay."""
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
