"""The standard streams of a command: all three open, with distinguishable errors of output."""

import contextlib
import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Final, TextIO

from wasmdrop.protocol.errors import OutputError
from wasmdrop.protocol.text import one_line

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDOUT: Final = 1
_STDERR: Final = 2


class _Stream(io.FileIO):
    """A descriptor that another process may have made non-blocking."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "wb", closefd=False)

    def write(self, data: "ReadableBuffer") -> int:
        """Write some of ``data``, after a wait for room."""
        while (written := super().write(data)) is None:
            select.select([], [self], [])
        return written


class _Output(_Stream):
    """Standard output. Its errors are ``OutputError``, also below argparse and rich."""

    def __init__(self, *, is_closed: bool) -> None:
        super().__init__(_STDOUT)
        self._is_closed = is_closed

    def write(self, data: "ReadableBuffer") -> int:
        """Write some of ``data``. Raises ``OutputError``."""
        try:
            if self._is_closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return super().write(data)
        except OSError as error:
            raise OutputError(error) from error


class _Errors(_Stream):
    """Standard error. Data that can't be written is dropped: the exit status remains."""

    def __init__(self) -> None:
        super().__init__(_STDERR)

    def write(self, data: "ReadableBuffer") -> int:
        """Write some of ``data``, or drop it."""
        with contextlib.suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def prepare() -> None:
    """Replace the standard streams.

    The null device replaces a closed descriptor below 3, which the next opened file, such as the
    journal, would get otherwise, together with everything printed.
    """
    closed = [fd for fd in (0, _STDOUT, _STDERR) if not _is_open(fd)]
    for _ in closed:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
    sys.stdout = _text(_Output(is_closed=_STDOUT in closed), sys.stdout)
    sys.stderr = _text(_Errors(), sys.stderr)


def abandon_output() -> None:
    """Discard buffered and further standard output."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STDOUT)
    os.close(null)
    sys.stdout = io.StringIO()


def say(message: str) -> None:
    """Write a message to standard error, in one line that is safe for a terminal."""
    sys.stderr.write(f"wasmdrop: {one_line(message)}\n")


def _text(stream: _Stream, like: TextIO | None) -> TextIO:
    """Return a text stream with the encoding of ``like``, which is None if that was closed."""
    encoding, errors = ("utf-8", "strict") if like is None else (like.encoding, like.errors)
    is_line_buffered = isinstance(stream, _Errors) or stream.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(stream), encoding, errors, line_buffering=is_line_buffered
    )


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
