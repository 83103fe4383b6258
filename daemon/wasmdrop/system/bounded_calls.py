"""Calls functions that may hang, such as those that touch storage, within a time limit.

Each runs in a child process. A mount whose server is gone blocks each process that touches it, and
a process with a blocked thread may not even end; a child that hangs is left behind.
"""

import contextlib
import os
import pickle
import select
import signal
import time
from collections.abc import Callable
from typing import Any, Final, Generic, NoReturn, TypeVar

T = TypeVar("T")

_PIECE_BYTES: Final = 1 << 16


class NoAnswerError(Exception):
    """The function did not return in time."""


class BoundedCall(Generic[T]):
    """A call in a child process, which begins at once.

    For a command without threads. The function's result, or its exception, must be picklable.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._read_fd, write_fd = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _run(function, write_fd)
        os.close(write_fd)

    def result(self, deadline: float) -> T:
        """Return the result, or raise the exception; called once.

        Raises ``NoAnswerError`` if there is none by ``deadline``, a time of ``time.monotonic``, or
        if the child died.
        """
        data = b""
        try:
            while piece := self._read(deadline):
                data += piece
        finally:
            os.close(self._read_fd)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, os.WNOHANG)  # one that hangs gets another parent
        if not data:
            raise NoAnswerError
        is_error, value = pickle.loads(data)  # noqa: S301 - from our own child
        if is_error:
            raise value
        result: T = value
        return result

    def _read(self, deadline: float) -> bytes:
        """Return the next piece; empty at the end of the pipe."""
        ready, _, _ = select.select([self._read_fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise NoAnswerError
        return os.read(self._read_fd, _PIECE_BYTES)


def _run(function: Callable[[], Any], fd: int) -> NoReturn:
    """Send the result to the parent, and end without any clean-up of the parent's."""
    try:
        # One that hangs may outlive the command: the reader of its output must see the end of it.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        try:
            answer = pickle.dumps((False, function()))
        except Exception as error:  # noqa: BLE001 - the parent raises it
            answer = pickle.dumps((True, error))
        with os.fdopen(fd, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)
