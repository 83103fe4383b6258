"""Every error that wasmdrop raises on purpose, and whose fault it is.

::

    WasmdropError
    ├── SettingsError        the operator's: a setting or a command line that does not fit
    ├── RefusedError         the producer's or the guest's: becomes the outcome of the job
    ├── StorageError         the world's: a disk or mount that failed, maybe only for a while
    ├── OutputError          the caller's: a command's standard output can't be written
    └── SandboxError         the daemon's: its own helper processes did not do their part

A ``RefusedError`` carries the code and the message that the result files and the marker will show.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wasmdrop.protocol.outcome import Code

__all__ = [
    "OutputError",
    "RefusedError",
    "SandboxError",
    "SettingsError",
    "StorageError",
    "WasmdropError",
]


class WasmdropError(Exception):
    """The root of the tree."""


class SettingsError(WasmdropError):
    """A setting or a command line that does not fit; its text is one line that names it."""


class RefusedError(WasmdropError):
    """What was dropped can't be run as it is; ends its job with ``code`` and ``message``."""

    def __init__(self, code: "Code", message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class StorageError(WasmdropError):
    """Storage failed in a way that may pass."""


class OutputError(WasmdropError):
    """Standard output can't be written. No ``OSError``: libraries hide those, or exit with 1."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"standard output can't be written: {cause.strerror}")
        self.is_closed_pipe = isinstance(cause, BrokenPipeError)
        """Whether its reader has gone, having seen enough."""


class SandboxError(WasmdropError):
    """The forking server or a child broke its protocol or died; the job may be tried again."""
