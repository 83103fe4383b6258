"""Limits of one job."""

from typing import Final

import msgspec

MEBIBYTE: Final = 1024 * 1024

#: Files and directories that a job may leave. An empty file has no bytes, but takes an inode of the
#: disk, a line of the marker and a sync.
MAX_OUTPUT_ENTRIES: Final = 10_000

#: Pattern of grant names. A grant is a directory of this name at the guest's root.
GRANT_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"


class Limits(msgspec.Struct, frozen=True):
    """Limits of one job. An input may ask for at most the daemon's own limits."""

    timeout_sec: float = 20.0
    """Wall clock time of the run, without compilation."""
    memory_mb: int = 256
    """The guest's linear memories and tables together, in MiB."""
    output_mb: float = 8.0
    """Standard output and standard error together, or the results as JSON, in MiB."""
    disk_mb: int = 64
    """The files in the job's own directory together, in MiB."""
    fuel: int | None = None
    """Units of wasmtime's fuel, about one per instruction; None for no limit."""

    @property
    def memory_bytes(self) -> int:
        """The memory limit in bytes."""
        return self.memory_mb * MEBIBYTE

    @property
    def output_bytes(self) -> int:
        """The output limit in bytes."""
        return int(self.output_mb * MEBIBYTE)

    @property
    def disk_bytes(self) -> int:
        """The disk limit in bytes."""
        return self.disk_mb * MEBIBYTE
