"""Runs file operations that may hang on threads of their mount.

A mount whose server is gone blocks each thread that touches it, for ever. The event loop's executor
has few threads for everything: some hanging operations there would stop the whole daemon.
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

from wasmdrop.system.awake_wait import wait_awake
from wasmdrop.system.mount_table import MountTable

T = TypeVar("T")

#: Threads of one mount, so that a long operation does not delay those of other jobs.
_THREADS: Final = 4

#: A mount is stuck if all of its threads have been busy for so long.
_STUCK_SECONDS: Final = 2.0


@dataclass
class _MountQueue:
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
    """Used from one event loop. Threads that hang do not keep the process from exiting."""

    def __init__(self) -> None:
        self._table = MountTable()
        self._mounts: dict[str, _MountQueue] = {}

    async def run(
        self, path: str, call: Callable[..., T], *args: Any, wait_seconds: float | None = None
    ) -> T:
        """Return ``call(*args)``, run on a thread of the mount that ``path`` is on.

        Raises the exceptions of the call, and ``OSError`` with ``ETIMEDOUT`` if it takes longer
        than ``wait_seconds`` or the mount is stuck already. A pause of the whole process counts as
        a fifth of ``wait_seconds`` at most.
        """
        mount = self._mounts.setdefault(self._table.of(path).point, _MountQueue())
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        if wait_seconds is not None and mount.is_stuck():
            raise _timeout_error(path)

        def run_call() -> None:
            value: T | None = None
            error: BaseException | None = None
            if not result.cancelled():
                try:
                    value = call(*args)
                except BaseException as caught:  # noqa: BLE001 - raised in the coroutine that waits
                    error = caught
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(_settle, result, value, error)

        mount.calls.put(run_call)
        if mount.threads < _THREADS and mount.calls.qsize() > mount.idle:
            mount.threads += 1
            threading.Thread(target=_work, args=(mount,), name="mount", daemon=True).start()
        try:
            if wait_seconds is not None and not await wait_awake(result, wait_seconds):
                raise _timeout_error(path)
            return await result
        finally:
            result.cancel()  # unless it is done: a call that has not begun is not made

    def close(self) -> None:
        """Close the mount table. The threads end with the process."""
        self._table.close()


def _work(mount: _MountQueue) -> None:
    number = threading.get_ident()
    while True:
        mount.idle += 1
        call = mount.calls.get()
        mount.idle -= 1
        mount.began[number] = time.monotonic()
        call()
        del mount.began[number]


def _settle(result: "asyncio.Future[Any]", value: Any, error: BaseException | None) -> None:
    if result.done():
        return  # the waiter was cancelled or timed out
    if error is None:
        result.set_result(value)
    else:
        result.set_exception(error)


def _timeout_error(path: str) -> OSError:
    return OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), path)
