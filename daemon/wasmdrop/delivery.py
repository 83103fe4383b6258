"""Delivery: puts the result files and, last, the completion marker into a slot.

Promises that at any moment, also after a power cut, the slot holds either no marker or a true one:
the old marker goes first and durably, each new file is written under a temporary name, synced and
renamed, the directory is synced, the marker comes last in the same way. Whatever lies at these
names is replaced by name and never opened. What a program left in its directory is copied into a
directory beside, of a temporary name too, which is then renamed into place at once.
"""

import asyncio
import contextlib
import os
import queue
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog

from wasmdrop import beneath
from wasmdrop.durable import begin_writing, temporary_name
from wasmdrop.job import Slot
from wasmdrop.layout import OUTPUT_SUFFIX
from wasmdrop.marker import MARKER_SUFFIX
from wasmdrop.mounts import MountTable
from wasmdrop.report import Package
from wasmdrop.scheduling import wait_for_turn
from wasmdrop.tree import copy_tree, remove_tree

__all__ = ["RESULT_SUFFIXES", "Delivery", "ResultLines"]

_log = structlog.get_logger()

#: Every name that a result may have: what an earlier job left and this one does not write must go.
RESULT_SUFFIXES: Final = (".json", ".txt", ".stdout", ".stderr")

#: How long a stop waits for deliveries that have begun, in seconds.
_CLOSE_SECONDS: Final = 5.0

#: Deliveries that share their syncs; more would only make the first wait for the last.
_TOGETHER: Final = 32


class Delivery:
    """Delivers results, on threads of each filesystem: one that hangs holds up no other.

    ``on_delivered`` hears, on such a thread, of each package that is in place. Used from one event
    loop.
    """

    def __init__(self, shared_dir: str, on_delivered: Callable[[Package], None]) -> None:
        self._shared_dir = shared_dir.rstrip("/")
        self._on_delivered = on_delivered
        self._mounts = MountTable()
        self._lanes: dict[tuple[str, bool], _Lane] = {}

    def deliver(self, slot: Slot, package: Package) -> "asyncio.Future[None]":
        """Put ``package`` into the slot; the future is done when it is there.

        It raises ``OSError`` where storage fails; then the slot holds no marker, or an old true
        one, and the delivery may be repeated.
        """
        placing = _Placing(slot, package, asyncio.get_running_loop().create_future())
        # What a program left may be many megabytes: those who have none don't wait for it.
        key = (self._mounts.of(slot.directory).point, package.output is not None)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(self._shared_dir, self._on_delivered)
        lane.waiting.put(placing)
        return placing.done

    def close(self) -> None:
        """End the threads; deliveries that have begun are finished first, but for those that hang.

        These the journal still has.
        """
        for lane in self._lanes.values():
            lane.waiting.put(None)
        end = time.monotonic() + _CLOSE_SECONDS
        for (point, _has_output), lane in self._lanes.items():
            lane.thread.join(max(0.0, end - time.monotonic()))
            if lane.thread.is_alive():
                _log.warning("delivery-hangs", mount=point)
        self._mounts.close()


class _Lane:
    """Delivers what goes to one filesystem, all that waits at a time together.

    A sync of a directory is then one for all of them, and the first sync of a file finds the
    others' data on its way too.
    """

    def __init__(self, shared_dir: str, on_delivered: Callable[[Package], None]) -> None:
        self.waiting: queue.SimpleQueue[_Placing | None] = queue.SimpleQueue()
        self._shared_dir = shared_dir
        self._on_delivered = on_delivered
        self.thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        wait_for_turn()
        ending = False
        while not ending:
            together = [self.waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(together) < _TOGETHER:
                    together.append(self.waiting.get_nowait())
            ending = None in together
            placings = [placing for placing in together if placing is not None]
            self._place(placings)
            for placing in placings:
                placing.answer()
            # After the answers: however much that is, it keeps nobody waiting for them.
            for placing in placings:
                self._clear(placing)

    def _place(self, placings: list["_Placing"]) -> None:
        """Take all of them through each step before any goes on to the next."""
        _each(placings, lambda one: one.enter(self._open(one.slot)))
        _each(placings, _Placing.stage)
        _each(placings, _Placing.unmark)
        _sync_directories(placing for placing in placings if placing.was_marked)
        _each(placings, _Placing.write)
        _each(placings, _Placing.sync)
        _each(placings, _Placing.publish)
        _sync_directories(placings)
        _each(placings, _Placing.mark)
        _sync_directories(placings)
        _each(placings, lambda one: self._on_delivered(one.package))
        for placing in placings:
            placing.leave()

    def _clear(self, placing: "_Placing") -> None:
        """Remove what lay at the output's name before, and what the output was copied from."""
        try:
            if placing.replaced:
                directory = self._open(placing.slot)
                try:
                    _remove_tree(directory, placing.replaced)
                finally:
                    os.close(directory)
            if placing.package.output is not None and placing.error is None:
                _remove_path(placing.package.output.root)
        except OSError as error:
            _log.warning("leftover-stays", slot=placing.slot.key, error=str(error))

    def _open(self, slot: Slot) -> int:
        if slot.directory.startswith(self._shared_dir + "/"):
            relative = slot.directory[len(self._shared_dir) + 1 :]
            return beneath.open_directory(self._shared_dir, relative)
        # The shared directory itself, or where the operator wants the root slot's results.
        return os.open(slot.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class ResultLines:
    """Prints each package's result line on standard output; called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._are_read = True

    def __call__(self, package: Package) -> None:
        """Print one line, whole."""
        with self._lock:
            if not self._are_read:
                return
            try:
                sys.stdout.buffer.write(package.line)
                sys.stdout.buffer.flush()
            except (OSError, ValueError) as error:
                # The results are in their files: a reader that went away must not stop the daemon.
                self._are_read = False
                _log.warning("result-lines-stopped", error=str(error))


class _Placing:
    """One delivery, step by step; a step that fails is its last."""

    def __init__(self, slot: Slot, package: Package, done: "asyncio.Future[None]") -> None:
        self.slot = slot
        self.package = package
        self.done = done
        self.error: OSError | None = None
        self.was_marked = False
        self.staged = ""
        """The temporary name of the output's directory, where there is one."""
        self.replaced = ""
        """The temporary name that an older output's directory has now."""
        self._directory = -1
        self._stem = slot.stem
        self._temporaries: dict[str, str] = {}
        self._open_files: list[int] = []

    def enter(self, directory: int) -> None:
        """Take the open directory of the slot."""
        self._directory = directory

    def directory_identity(self) -> tuple[int, int]:
        """Tell directories apart, however they were reached."""
        status = os.fstat(self._directory)
        return status.st_dev, status.st_ino

    def sync_directory(self) -> None:
        """Make the names in the directory durable."""
        os.fsync(self._directory)

    def stage(self) -> None:
        """Copy what the program left into a new directory beside the results."""
        if self.package.output is None:
            return
        self.staged = temporary_name()
        # Until it is complete nobody else can enter, and so lead a path in it astray.
        os.mkdir(self.staged, 0o700, dir_fd=self._directory)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(self.staged, flags, dir_fd=self._directory)
        try:
            copy_tree(self.package.output, target)
            os.fchmod(target, 0o777 & ~_umask())
        finally:
            os.close(target)

    def unmark(self) -> None:
        """Remove the old marker."""
        self.was_marked = self._remove(self._stem + MARKER_SUFFIX)

    def write(self) -> None:
        """Write all files under temporary names and start them on their way to the disk."""
        for suffix, data in [*self.package.files.items(), (MARKER_SUFFIX, self.package.marker)]:
            name = temporary_name()
            fd = self._create(name)
            self._temporaries[suffix] = name
            self._open_files.append(fd)
            _write(fd, data)
            begin_writing(fd)

    def sync(self) -> None:
        """Wait until the files are durable."""
        for fd in self._open_files:
            os.fsync(fd)

    def publish(self) -> None:
        """Put the result files in their places."""
        for suffix in RESULT_SUFFIXES:
            name = self._stem + suffix
            if suffix in self.package.files:
                self._rename(self._temporaries[suffix], name)
                del self._temporaries[suffix]
            else:
                self._remove(name)
        name = self._stem + OUTPUT_SUFFIX
        self._put_away(name)
        if self.staged:
            os.rename(self.staged, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            self.staged = ""

    def mark(self) -> None:
        """Put the marker in its place."""
        self._rename(self._temporaries[MARKER_SUFFIX], self._stem + MARKER_SUFFIX)
        del self._temporaries[MARKER_SUFFIX]

    def leave(self) -> None:
        """Let go of everything that was opened or left."""
        for fd in self._open_files:
            os.close(fd)
        for name in self._temporaries.values():
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._directory)
        if self._directory >= 0:
            if self.staged:
                _remove_tree(self._directory, self.staged)
            os.close(self._directory)

    def _put_away(self, name: str) -> None:
        """Give whatever has ``name`` a temporary one, to be removed when there is time."""
        away = temporary_name()
        with contextlib.suppress(FileNotFoundError):
            os.rename(name, away, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            self.replaced = away

    def answer(self) -> None:
        """Tell whoever waits; from this thread to theirs."""
        with contextlib.suppress(RuntimeError):  # their loop is closed: nobody waits any more
            self.done.get_loop().call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if self.done.done():
            return  # whoever waited was cancelled
        if self.error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(self.error)

    def _create(self, name: str) -> int:
        return os.open(
            name,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o666,
            dir_fd=self._directory,
        )

    def _rename(self, temporary: str, name: str) -> None:
        try:
            os.replace(temporary, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except IsADirectoryError:
            self._set_aside(name)
            os.replace(temporary, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def _remove(self, name: str) -> bool:
        """Remove ``name``; False where nothing was there."""
        try:
            os.unlink(name, dir_fd=self._directory)
        except FileNotFoundError:
            return False
        except OSError:
            # Linux says EISDIR, other filesystems EPERM: look before believing it.
            status = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise
            self._set_aside(name)
        return True

    def _set_aside(self, name: str) -> None:
        """Free a name that a directory has taken: it is not ours to delete."""
        try:
            os.rmdir(name, dir_fd=self._directory)
        except OSError:
            aside = f"{name}.aside-{os.urandom(4).hex()}"
            os.rename(name, aside, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            _log.warning("directory-set-aside", name=name, now=aside)


def _remove_tree(directory: int, name: str) -> None:
    """Remove what may be a directory or not; what stays is swept at the next start."""
    try:
        try:
            os.unlink(name, dir_fd=directory)
        except OSError:
            remove_tree(directory, name)
    except OSError as error:
        _log.warning("leftover-stays", name=name, error=str(error))


def _remove_path(path: str) -> None:
    parent, name = os.path.split(path)
    directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _remove_tree(directory, name)
    finally:
        os.close(directory)


def _umask() -> int:
    """Return what a new file's mode goes without (proc(5)): asking the kernel would change it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _each(placings: list[_Placing], step: Callable[[_Placing], None]) -> None:
    for placing in placings:
        if placing.error is None:
            try:
                step(placing)
            except OSError as error:
                placing.error = error


def _sync_directories(placings: Iterable[_Placing]) -> None:
    """Sync each directory once; where that fails, it fails for all that are in it."""
    by_directory: dict[tuple[int, int], list[_Placing]] = {}
    for placing in placings:
        if placing.error is None:
            by_directory.setdefault(placing.directory_identity(), []).append(placing)
    for those in by_directory.values():
        try:
            those[0].sync_directory()
        except OSError as error:
            for placing in those:
                placing.error = error
