"""What one job may use up."""

import msgspec

__all__ = ["GRANT_NAME", "MEBIBYTE", "Limits"]

MEBIBYTE = 1024 * 1024

#: What a grant may be called: a name that is also a directory's, at the guest's root.
GRANT_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"


class Limits(msgspec.Struct, frozen=True):
    """Limits of one job. The daemon's own are the ceiling of what an input may ask for."""

    timeout_sec: float = 20.0
    """Wall clock of the run, in seconds; compiling is not counted."""
    memory_mb: int = 256
    """The guest's linear memories and tables together, in MiB."""
    output_mb: float = 8.0
    """Standard output and standard error together, or the results as JSON, in MiB."""
    disk_mb: int = 64
    """The files in the job's own directory together, in MiB."""
    fuel: int | None = None
    """Units of wasmtime's fuel, about one an instruction; None counts none."""

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
