"""The standard streams of a command: all three open, and errors of output told from all others."""

import contextlib
import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Final, TextIO

from wasmdrop.protocol.errors import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["abandon_output", "prepare"]

_STDOUT: Final = 1
_STDERR: Final = 2


class _Stream(io.FileIO):
    """A descriptor that may be non-blocking, because another process that has it wants it so."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "wb", closefd=False)

    def write(self, data: "ReadableBuffer") -> int:
        """Write some of ``data``, when there is room."""
        while (written := super().write(data)) is None:
            select.select([], [self], [])
        return written


class _Output(_Stream):
    """Standard output. What fails is an ``OutputError``, also below argparse and rich."""

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
    """Standard error. If it can't be written, the exit status says what there is to say."""

    def __init__(self) -> None:
        super().__init__(_STDERR)

    def write(self, data: "ReadableBuffer") -> int:
        """Write some of ``data``, or drop it."""
        with contextlib.suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def prepare() -> None:
    """Make the standard streams complete, and their errors as above.

    A descriptor below 3 that is closed would be that of the next file opened, such as the journal,
    and take what is printed: the null device takes its place.
    """
    closed = [fd for fd in (0, _STDOUT, _STDERR) if not _is_open(fd)]
    for _ in closed:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
    sys.stdout = _text(_Output(is_closed=_STDOUT in closed), sys.stdout)
    sys.stderr = _text(_Errors(), sys.stderr)


def abandon_output() -> None:
    """Write nothing more to standard output, not even what is buffered."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STDOUT)
    os.close(null)
    sys.stdout = io.StringIO()


def _text(stream: _Stream, like: TextIO | None) -> TextIO:
    """Return a text stream; ``like`` is Python's own, None if that was closed."""
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
