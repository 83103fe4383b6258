"""Syncing: many files made durable side by side.

A sync of a small file is a wait for the disk to flush what it has; flushes that are wanted at the
same time are one for the disk.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Final

from wasmdrop.delivery.placing import Directory, Placing

__all__ = ["Syncs", "sync_directories"]

#: A job has two or three files to sync; those of many jobs share these and the caller.
_THREADS: Final = 3

_Files = list[tuple[Placing, int]]


class Syncs:
    """Syncs files, on some threads that wait for nothing else."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[_Files, queue.SimpleQueue[None]]] = queue.SimpleQueue()
        for _ in range(_THREADS):
            threading.Thread(target=self._help, name="sync", daemon=True).start()

    @contextlib.contextmanager
    def sync(self, placings: Iterable[Placing]) -> Iterator[None]:
        """Have all that these have written durable at the end of the block, which does other work.

        What fails is their error.
        """
        files = [(placing, fd) for placing in placings for fd in placing.unsynced]
        done: queue.SimpleQueue[None] = queue.SimpleQueue()
        # One part is for the caller itself: of few files none waits for a thread to wake.
        own, *parts = (files[start :: _THREADS + 1] for start in range(_THREADS + 1))
        parts = list(filter(None, parts))
        for part in parts:
            self._work.put((part, done))
        try:
            yield
        finally:
            _sync(own)
            for _ in parts:
                done.get()

    def _help(self) -> None:
        while True:
            files, done = self._work.get()
            _sync(files)
            done.put(None)


def _sync(files: _Files) -> None:
    for placing, fd in files:
        try:
            os.fsync(fd)
        except OSError as error:
            placing.error = error


def sync_directories(placings: Iterable[Placing]) -> None:
    """Sync each directory once; where that fails, it fails for all that are in it."""
    by_directory: dict[tuple[int, int], tuple[Directory, list[Placing]]] = {}
    for placing in placings:
        if placing.error is None and placing.directory is not None:
            directory = placing.directory
            by_directory.setdefault(directory.identity, (directory, []))[1].append(placing)
    for directory, those in by_directory.values():
        try:
            os.fsync(directory.fd)
        except OSError as error:
            for placing in those:
                placing.error = error
