"""What a deterministic job is told of its files: numbers and times that are not the disk's.

Files are numbered in the order in which they are first looked at. A file that was laid, or given by
a grant, is as old as the job's clock when it starts. A time that the program set is the one that it
set. Any other is that of the look at which the file was first seen, or seen to have changed: each
such look moves the clock on, so that later changes have later times.

That a file has changed is told by the modification time that the disk gives it, whatever that is.
Assumes that no two changes with a look between them get the same one; as the kernel's clock may
stand still for 10 ms, :meth:`FileMetadataTable.look` sees to that.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wasmdrop.protocol.outcome import DETERMINISTIC_CLOCK_NS

__all__ = ["DiskMetadata", "FileMetadata", "FileMetadataTable"]

#: CLOCK_REALTIME_COARSE (linux/time.h): the clock that the times of files are taken from.
_CLOCK_OF_FILES: Final = 5
_NAP_SECONDS: Final = 0.001
#: The clock moves on every 10 ms at least (CONFIG_HZ). More naps than that: it was set back.
_MAX_NAPS: Final = 50


@dataclass(frozen=True, slots=True)
class DiskMetadata:
    """What the disk says of a file."""

    identity: int
    """Tells files apart that are there at one time; that of a file that is gone comes again."""
    links: int
    modified_ns: int


@dataclass(slots=True)
class FileMetadata:
    """What is told of a file."""

    number: int
    modified_ns: int = DETERMINISTIC_CLOCK_NS
    accessed_ns: int = DETERMINISTIC_CLOCK_NS
    disk_ns: int | None = None
    """The disk's modification time while ``modified_ns`` holds; None before the first look."""
    is_removed: bool = False


class FileMetadataTable:
    """The files that one job has seen; ``now_ns`` moves the job's clock on and returns its time."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._entries: dict[int, FileMetadata] = {}
        self._count = 0
        # What the disk calls older was not made by the job.
        self._started_ns = time.clock_gettime_ns(_CLOCK_OF_FILES)

    def find(self, identity: int, links: int = 1) -> FileMetadata:
        """Return the entry of a file that has ``links`` names; its times may be those of before."""
        entry = self._entries.get(identity)
        # With a name, it can't be the file that lost its last one: some disks use numbers again.
        if entry is None or (entry.is_removed and links > 0):
            self._count += 1
            entry = self._entries[identity] = FileMetadata(self._count, is_removed=links == 0)
        return entry

    def look(self, status: DiskMetadata, stamp: Callable[[int], int | None]) -> FileMetadata:
        """Return the entry of a file as it is now.

        ``stamp`` sets the file's modification time on the disk, and returns what the disk then says
        that it is, or None where that can't be done.
        """
        entry = self.find(status.identity, status.links)
        if status.modified_ns == entry.disk_ns:
            return entry
        entry.disk_ns = status.modified_ns
        entry.modified_ns = DETERMINISTIC_CLOCK_NS
        if status.modified_ns >= self._started_ns:
            entry.modified_ns = self._now_ns()
            # The next change, whenever it comes, replaces a time that no disk's clock shows.
            stamped_ns = stamp(entry.modified_ns)
            if stamped_ns is None:
                _outwait(status.modified_ns)
            else:
                entry.disk_ns = stamped_ns
        entry.accessed_ns = entry.modified_ns
        return entry

    def set_times(
        self, status: DiskMetadata, accessed_ns: int | None, modified_ns: int | None
    ) -> None:
        """Note that the program has set times; ``status`` is what the disk says since then."""
        entry = self.find(status.identity, status.links)
        entry.disk_ns = status.modified_ns
        if accessed_ns is not None:
            entry.accessed_ns = accessed_ns
        if modified_ns is not None:
            entry.modified_ns = modified_ns

    def remove(self, status: DiskMetadata, *, is_directory: bool) -> None:
        """Note that a name was taken from a file."""
        entry = self._entries.get(status.identity)
        if entry is not None and (is_directory or status.links <= 1):
            entry.is_removed = True


def _outwait(time_ns: int) -> None:
    """Wait until whatever happens gets a later time."""
    for _ in range(_MAX_NAPS):
        if time.clock_gettime_ns(_CLOCK_OF_FILES) > time_ns:
            return
        time.sleep(_NAP_SECONDS)
