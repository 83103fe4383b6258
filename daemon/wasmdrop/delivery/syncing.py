"""Syncing: what many deliveries have written made durable side by side."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Final

from wasmdrop.delivery.fsync import Fsyncs
from wasmdrop.delivery.placement import Directory, Placing

__all__ = ["Syncs"]

#: Files, and directories, that are synced at a time: three files of each of 64 deliveries.
_MOST: Final = 192


class Syncs:
    """Syncs files and directories. What fails is the error of those that it fails for."""

    def __init__(self) -> None:
        self._files = Fsyncs(_MOST)
        self._directories = Fsyncs(_MOST)

    @contextlib.contextmanager
    def files(self, placings: Iterable[Placing]) -> Iterator[None]:
        """Have all that these have written durable at the end of the block, which does other work.

        That may be to sync directories.
        """
        files = [(placing, fd) for placing in placings for fd in placing.unsynced]
        self._files.begin([fd for _placing, fd in files])
        try:
            yield
        finally:
            for (placing, _fd), error in zip(files, self._files.finish(), strict=True):
                placing.error = error or placing.error

    def directories(self, placings: Iterable[Placing]) -> None:
        """Sync the directory of each, once for all that are in it."""
        by_directory: dict[tuple[int, int], tuple[Directory, list[Placing]]] = {}
        for placing in placings:
            if placing.error is None and placing.directory is not None:
                directory = placing.directory
                by_directory.setdefault(directory.identity, (directory, []))[1].append(placing)
        found = list(by_directory.values())
        self._directories.begin([directory.fd for directory, _those in found])
        for (_directory, those), error in zip(found, self._directories.finish(), strict=True):
            for placing in those:
                placing.error = error
