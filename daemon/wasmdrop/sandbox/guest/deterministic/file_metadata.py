"""File metadata of a deterministic job: numbers and times that do not depend on the disk.

Files are numbered in the order of their first lookup. The times of an input file or a granted file
are the start of the job's clock. A time that the program sets is reported as set. Any other time is
that of the lookup that first found the file, or found it changed: each such lookup advances the
clock, so that later changes have later times.

A lookup detects a change by the disk's modification time. This assumes that no two changes with a
lookup between them get the same one. The kernel's clock may stand still for 10 ms, so
:meth:`FileMetadataTable.look_up` ensures it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wasmdrop.protocol.outcome import DETERMINISTIC_CLOCK_NS

#: CLOCK_REALTIME_COARSE (linux/time.h): the kernel's clock for the times of files.
_CLOCK_OF_FILES: Final = 5
_NAP_SECONDS: Final = 0.001
#: The clock advances at least every 10 ms (CONFIG_HZ). After 50 ms, it must have been set back.
_MAX_NAPS: Final = 50


@dataclass(frozen=True, slots=True)
class DiskMetadata:
    """Metadata of a file on the disk."""

    identity: int
    """Unique among existing files; a new file may reuse that of a removed one."""
    links: int
    modified_ns: int


@dataclass(slots=True)
class FileMetadata:
    """Metadata of a file as the job sees it."""

    number: int
    modified_ns: int = DETERMINISTIC_CLOCK_NS
    accessed_ns: int = DETERMINISTIC_CLOCK_NS
    disk_ns: int | None = None
    """The disk's modification time that ``modified_ns`` stands for; None before a lookup."""
    is_removed: bool = False


class FileMetadataTable:
    """The metadata of one job's files; ``now_ns`` advances the job's clock and returns its time."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._entries: dict[int, FileMetadata] = {}
        self._count = 0
        # An older file on the disk was not changed by the job.
        self._started_ns = time.clock_gettime_ns(_CLOCK_OF_FILES)

    def find(self, identity: int, links: int = 1) -> FileMetadata:
        """Return the entry of a file that has ``links`` names; its times may be outdated."""
        entry = self._entries.get(identity)
        # A file with a name can't be the one that lost its last name: the disk reused its number.
        if entry is None or (entry.is_removed and links > 0):
            self._count += 1
            entry = self._entries[identity] = FileMetadata(self._count, is_removed=links == 0)
        return entry

    def look_up(self, disk: DiskMetadata, stamp: Callable[[int], int | None]) -> FileMetadata:
        """Return the up-to-date entry of a file.

        ``stamp`` sets the file's modification time on the disk and returns the time that the disk
        then reports, or None if it can't be set.
        """
        entry = self.find(disk.identity, disk.links)
        if disk.modified_ns == entry.disk_ns:
            return entry
        entry.disk_ns = disk.modified_ns
        entry.modified_ns = DETERMINISTIC_CLOCK_NS
        if disk.modified_ns >= self._started_ns:
            entry.modified_ns = self._now_ns()
            # The next change replaces this time, which the disk's clock can't show again.
            stamped_ns = stamp(entry.modified_ns)
            if stamped_ns is None:
                _wait_past(disk.modified_ns)
            else:
                entry.disk_ns = stamped_ns
        entry.accessed_ns = entry.modified_ns
        return entry

    def set_times(
        self, disk: DiskMetadata, accessed_ns: int | None, modified_ns: int | None
    ) -> None:
        """Record times that the program set; ``disk`` was read after that."""
        entry = self.find(disk.identity, disk.links)
        entry.disk_ns = disk.modified_ns
        if accessed_ns is not None:
            entry.accessed_ns = accessed_ns
        if modified_ns is not None:
            entry.modified_ns = modified_ns

    def remove(self, disk: DiskMetadata, *, is_directory: bool) -> None:
        """Record that a name of a file was removed."""
        entry = self._entries.get(disk.identity)
        if entry is not None and (is_directory or disk.links <= 1):
            entry.is_removed = True


def _wait_past(time_ns: int) -> None:
    """Wait until the next change gets a later time."""
    for _ in range(_MAX_NAPS):
        if time.clock_gettime_ns(_CLOCK_OF_FILES) > time_ns:
            return
        time.sleep(_NAP_SECONDS)
