"""The time that requests to a server may take: in all, and without a byte."""

import time
from collections.abc import Callable
from typing import Final

from wasmdrop.protocol.errors import FetchError

#: Most time without a byte from the server, in seconds.
_MAX_IDLE_SECONDS: Final = 30.0


class Deadline:
    """The end of a download, ``seconds`` from now by ``clock``.

    ``flag``: of the command line, which the error names.
    """

    def __init__(
        self, seconds: float, clock: Callable[[], float] = time.monotonic, flag: str = ""
    ) -> None:
        self._seconds = seconds
        self._flag = f" ({flag})" if flag else ""
        self._clock = clock
        self._end = clock() + seconds

    def next_wait_seconds(self) -> float:
        """Return how long the next call may wait. Raises `FetchError` if the time is over."""
        left_seconds = self._end - self._clock()
        if left_seconds <= 0:
            raise self.error()
        return min(left_seconds, _MAX_IDLE_SECONDS)

    def error(self) -> FetchError:
        """Return the error for a call that waited in vain."""
        if self._clock() < self._end:
            return FetchError(f"nothing arrived for {_MAX_IDLE_SECONDS:g} s")
        return FetchError(f"not complete after {self._seconds:g} s{self._flag}")
