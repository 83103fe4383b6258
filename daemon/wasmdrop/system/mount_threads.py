"""MountThreads at files that may hang: each mount's are made on threads of its own.

A mount whose server is gone blocks whoever looks at it, for ever. The threads of the event loop's
executor are few and shared by all: some hung looks would stop everything.
"""

import asyncio
import contextlib
import errno
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from wasmdrop.system.mount_table import MountTable

__all__ = ["MountThreads"]

T = TypeVar("T")

#: Threads of one mount: looks of several jobs, of which one may be long.
_THREADS: Final = 4

#: A mount all of whose threads are busy for so long does not answer, in seconds.
_STUCK_SECONDS: Final = 2.0


@dataclass
class _Mount:
    calls: "queue.SimpleQueue[Callable[[], None]]" = field(default_factory=queue.SimpleQueue)
    idle: int = 0
    began: dict[int, float] = field(default_factory=dict)
    """When each busy thread began its call, by the monotonic clock."""
    threads: int = 0

    def is_stuck(self) -> bool:
        end = time.monotonic() - _STUCK_SECONDS
        began = list(self.began.values())
        return len(began) >= _THREADS and all(at < end for at in began)


class MountThreads:
    """Used from one event loop. Threads that hang do not keep the process from ending."""

    def __init__(self) -> None:
        self._table = MountTable()
        self._mounts: dict[str, _Mount] = {}

    async def at(
        self, path: str, call: Callable[..., T], *args: Any, wait_seconds: float | None = None
    ) -> T:
        """Return what ``call(*args)`` returns, which looks at files where ``path`` is.

        Raises what it raises, and ``OSError`` with ``ETIMEDOUT`` where the mount does not answer
        within ``wait_seconds``, or has not answered others.
        """
        mount = self._mounts.setdefault(self._table.of(path).point, _Mount())
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        if wait_seconds is not None and mount.is_stuck():
            raise _no_answer(path)

        def look() -> None:
            result: T | None = None
            error: BaseException | None = None
            if not answer.cancelled():
                try:
                    result = call(*args)
                except BaseException as caught:  # noqa: BLE001 - raised where it is waited for
                    error = caught
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(_settle, answer, result, error)

        mount.calls.put(look)
        if mount.threads < _THREADS and mount.calls.qsize() > mount.idle:
            mount.threads += 1
            threading.Thread(target=_work, args=(mount,), name="looks", daemon=True).start()
        try:
            async with asyncio.timeout(wait_seconds):
                return await answer
        except TimeoutError:
            raise _no_answer(path) from None

    def close(self) -> None:
        """Let go of the mount table; its threads end with the process."""
        self._table.close()


def _work(mount: _Mount) -> None:
    number = threading.get_ident()
    while True:
        mount.idle += 1
        call = mount.calls.get()
        mount.idle -= 1
        mount.began[number] = time.monotonic()
        call()
        del mount.began[number]


def _settle(answer: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if answer.done():
        return  # whoever waited has given up
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


def _no_answer(path: str) -> OSError:
    return OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), path)
