"""The scanner: looks for what events did not tell of, and looks again when it was asked to.

One thread with a list of appointments: a walk through everything at start, when events were lost,
and every so often; one directory after a volume was swapped; one path after a time.
"""

import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator

import structlog

from wasmdrop.durable import is_stale_temporary
from wasmdrop.layout import Layout, is_ignored
from wasmdrop.tree import remove_tree

__all__ = ["Scanner"]

_log = structlog.get_logger()


class Scanner:
    """Calls ``on_file(path)`` for what lies in the directories of ``layout``.

    ``is_taken(path, status)`` says which files need no second look. Every ``period_seconds``
    everything is walked through.
    """

    def __init__(
        self,
        layout: Layout,
        on_file: Callable[[str], None],
        is_taken: Callable[[str, os.stat_result], bool],
        period_seconds: float,
        max_depth: int,
    ) -> None:
        self.scans = 0
        """Walks through everything so far."""
        self._layout = layout
        self._on_file = on_file
        self._is_taken = is_taken
        self._period_seconds = period_seconds
        self._max_depth = max_depth
        self._due: list[tuple[float, int, str | None]] = []
        self._serial = itertools.count()
        self._pending: set[str] = set()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="scanner", daemon=True)

    def start(self) -> None:
        """Walk through everything, then go on with it in a thread of its own."""
        self.scan_everything(sweep=True)
        self._appoint(self._period_seconds, None)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; no call of ``on_file`` comes after this returns."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def scan_soon(self) -> None:
        """Walk through everything as soon as the thread is free."""
        self._appoint(0.0, None)

    def scan_every(self, seconds: float) -> None:
        """Walk through everything at least this often from now on."""
        self._period_seconds = min(self._period_seconds, seconds)
        self._appoint(self._period_seconds, None)

    def look_again(self, path: str, seconds: float) -> None:
        """Look at ``path``, a file or a directory, once more after ``seconds``."""
        with self._changed:
            if path in self._pending:
                return
            self._pending.add(path)
        self._appoint(seconds, path)

    def scan_everything(self, *, sweep: bool = False) -> None:
        """Walk through everything now, inputs before modules.

        With ``sweep``, remove the temporary files that an earlier daemon left, too.
        An input that was dropped together with its module then finds it, and the module's own drop
        has nothing left to run.
        """
        self.scans += 1
        modules = []
        roots = dict.fromkeys((self._layout.shared_dir, self._layout.wasm_dir))
        for root in roots:
            modules += self._scan_tree(root, self._max_depth, sweep=sweep)
        self._look(self._layout.root_slot.input_path)
        for path in dict.fromkeys([*modules, self._layout.wasm_path]):
            self._look(path)

    def _scan_tree(self, root: str, depth: int, *, sweep: bool = False) -> list[str]:
        """Report the inputs below ``root``; return the modules."""
        modules = []
        pending = [(root, 0)]
        while pending and not self._stopping:
            directory, level = pending.pop()
            for entry in _entries(directory):
                if is_ignored(entry.name):
                    if sweep and is_stale_temporary(entry.name):
                        _remove(directory, entry)
                    continue
                if entry.is_dir(follow_symlinks=False) and level < depth:
                    pending.append((entry.path, level + 1))
                if not self._layout.may_matter(entry.name) or self._is_known(entry):
                    continue
                if self._layout.is_module(entry.path):
                    modules.append(entry.path)
                else:
                    self._on_file(entry.path)
        return modules

    def _is_known(self, entry: os.DirEntry[str]) -> bool:
        try:
            return self._is_taken(entry.path, entry.stat(follow_symlinks=False))
        except OSError:
            return False  # gone meanwhile, which whoever opens it will find

    def _look(self, path: str) -> None:
        if os.path.lexists(path):
            self._on_file(path)

    def _appoint(self, seconds: float, path: str | None) -> None:
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._serial), path))
            self._changed.notify()

    def _run(self) -> None:
        while (appointment := self._next()) is not None:
            path = appointment[0]
            try:
                if path is None:
                    self.scan_everything()
                    self._appoint(self._period_seconds, None)
                elif os.path.isdir(path):  # noqa: PTH112 - may hold any bytes
                    self._look(path)
                    for found in self._scan_tree(path, self._max_depth):
                        self._look(found)
                else:
                    self._look(path)
            except Exception:  # noqa: BLE001 - see the next line
                # The thread must live: it is what finds everything that the events missed.
                _log.exception("scan-failed", path=path)
                self._appoint(self._period_seconds, path)

    def _next(self) -> tuple[str | None] | None:
        """Wait for the next appointment; None at the end."""
        with self._changed:
            while not self._stopping:
                if not self._due:
                    self._changed.wait()
                    continue
                left_seconds = self._due[0][0] - time.monotonic()
                if left_seconds > 0:
                    self._changed.wait(left_seconds)
                    continue
                path = heapq.heappop(self._due)[2]
                if path is None:
                    # One walk serves all who asked for one.
                    self._due = [entry for entry in self._due if entry[2] is not None]
                    heapq.heapify(self._due)
                else:
                    self._pending.discard(path)
                return (path,)
            return None


def _remove(directory: str, entry: "os.DirEntry[str]") -> None:
    try:
        if entry.is_dir(follow_symlinks=False):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                remove_tree(fd, entry.name)
            finally:
                os.close(fd)
        else:
            os.unlink(entry.path)  # noqa: PTH108 - may hold any bytes
        _log.info("leftover-removed", path=entry.path)
    except OSError as error:
        _log.warning("leftover-stays", path=entry.path, error=str(error))


def _entries(directory: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except FileNotFoundError:
        return  # removed meanwhile, or not mounted yet
    except OSError as error:
        _log.warning("scan-incomplete", path=directory, error=str(error))
