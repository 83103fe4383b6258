"""Every error that wasmdrop raises on purpose, by whose fault it is.

::

    WasmdropError
    ├── SettingsError        the operator: an invalid setting or command line
    ├── RefusedError         the producer or the guest: becomes the outcome of the job
    ├── MalformedError       the author of a receipt or a key: it is not what it must be
    ├── FetchError           a server on the network: it did not send what it should
    ├── StorageError         the system: a disk or mount failed, perhaps temporarily
    ├── OutputError          the caller: a command's standard output can't be written
    └── SandboxError         the daemon: one of its helper processes failed

A ``RefusedError`` has the code and the message of the result files and the marker.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wasmdrop.protocol.outcome import Code


class WasmdropError(Exception):
    """The base class of all errors."""


class SettingsError(WasmdropError):
    """An invalid setting or command line. The text is one line that names it."""


class RefusedError(WasmdropError):
    """A job can't be run as it was dropped. It ends with ``code`` and ``message``."""

    def __init__(self, code: "Code", message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class MalformedError(WasmdropError):
    """A receipt, a statement or a key is malformed. The text is one line that says where."""


class FetchError(WasmdropError):
    """A server on the network did not answer as it should, or a download was refused.

    A download is also refused if something else has the file's name. The text is one line.
    """


class StorageError(WasmdropError):
    """Storage failed, perhaps temporarily."""


class OutputError(WasmdropError):
    """Standard output can't be written. Not an ``OSError``, which libraries hide."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"standard output can't be written: {cause.strerror}")
        self.is_closed_pipe = isinstance(cause, BrokenPipeError)
        """Whether its reader has closed the pipe."""


class SandboxError(WasmdropError):
    """The fork server or a child died or broke the protocol. The job may be run again."""
