"""Delivery: puts the result files and, last, the completion marker into a slot.

Promises that at any moment, also after a power cut, the slot holds either no marker or a true one:
the old marker goes first and durably, each new file is written under a temporary name, synced and
renamed, the directory is synced, the marker comes last in the same way. Whatever lies at these
names is replaced by name and never opened.
"""

import asyncio
import contextlib
import os
import stat
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from wasmdrop import beneath
from wasmdrop.durable import temporary_name
from wasmdrop.job import Slot
from wasmdrop.report import Package

__all__ = ["MARKER_SUFFIX", "RESULT_SUFFIXES", "Delivery", "ResultLines"]

_log = structlog.get_logger()

MARKER_SUFFIX: Final = ".done"

#: Every name that a result may have: what an earlier job left and this one does not write must go.
RESULT_SUFFIXES: Final = (".json", ".txt", ".stdout", ".stderr")

#: Deliveries wait for the disk most of the time, and a disk takes several syncs as one.
_THREADS: Final = 4


class Delivery:
    """Delivers results on threads of its own.

    ``on_delivered`` hears of each package that is in place, on one of these threads.
    """

    def __init__(self, shared_dir: str, on_delivered: Callable[[Package], None]) -> None:
        self._shared_dir = shared_dir.rstrip("/")
        self._on_delivered = on_delivered
        self._threads = ThreadPoolExecutor(_THREADS, "delivery")

    async def deliver(self, slot: Slot, package: Package) -> None:
        """Put ``package`` into the slot.

        Raises ``OSError`` where storage fails; then the slot holds no marker, or an old true one,
        and the delivery may be repeated.
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._deliver, slot, package)

    def close(self) -> None:
        """End the threads; deliveries that have begun are finished first."""
        self._threads.shutdown()

    def _deliver(self, slot: Slot, package: Package) -> None:
        directory = self._open(slot)
        try:
            _Placing(directory, slot.stem).place(package.files, package.marker)
        finally:
            os.close(directory)
        self._on_delivered(package)

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
    """One delivery into one open directory."""

    def __init__(self, directory: int, stem: str) -> None:
        self._directory = directory
        self._stem = stem

    def place(self, files: dict[str, bytes], marker: bytes) -> None:
        marker_name = self._stem + MARKER_SUFFIX
        if self._remove(marker_name):
            os.fsync(self._directory)
        temporaries: dict[str, str] = {}
        try:
            for suffix, data in [*files.items(), (MARKER_SUFFIX, marker)]:
                temporaries[suffix] = self._write(data)
            for suffix in RESULT_SUFFIXES:
                name = self._stem + suffix
                if suffix in files:
                    self._rename(temporaries[suffix], name)
                    del temporaries[suffix]
                else:
                    self._remove(name)
            os.fsync(self._directory)
            self._rename(temporaries[MARKER_SUFFIX], marker_name)
            del temporaries[MARKER_SUFFIX]
            os.fsync(self._directory)
        finally:
            for name in temporaries.values():
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._directory)

    def _write(self, data: bytes) -> str:
        name = temporary_name()
        fd = os.open(
            name,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o666,
            dir_fd=self._directory,
        )
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._directory)
            raise
        finally:
            os.close(fd)
        return name

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
