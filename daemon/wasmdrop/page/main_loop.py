"""Calls from the server's thread to the daemon's event loop, with a timeout."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from wasmdrop.protocol.errors import WasmdropError

_Answer = TypeVar("_Answer")

#: How long the event loop may take, in seconds: less than the deadline of a connection.
_ANSWER_SECONDS: Final = 2.0


class NoAnswerError(WasmdropError):
    """The event loop did not answer in time."""


class MainLoop:
    """The daemon's event loop ``loop``, as seen from another thread.

    ``silent_seconds`` returns the time since it was alive, as far as that is known.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, silent_seconds: Callable[[], float]
    ) -> None:
        self._loop = loop
        self._silent_seconds = silent_seconds

    async def call(self, function: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
        """Run a coroutine there and return its result. Raises ``NoAnswerError``."""
        coroutine = function()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # it is closed
            coroutine.close()
            raise NoAnswerError("the daemon is stopping") from None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            silent = max(self._silent_seconds(), _ANSWER_SECONDS)
            raise NoAnswerError(
                f"the daemon's event loop has not answered for {silent:.0f} s; /healthz fails after"
                " 20 s, so that a supervisor restarts the daemon; its log may say why"
            ) from None
