"""Runs the steps of retention on the threads of their mounts, slowly enough not to delay jobs."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from wasmdrop.system.mount_table import MountTable
from wasmdrop.system.mount_threads import MountThreads

T = TypeVar("T")

#: How long a step may take before retention goes on without it, in seconds.
_SLOW_SECONDS: Final = 60.0


class Steps:
    """Used from one event loop."""

    def __init__(self) -> None:
        self._table = MountTable()
        self._threads = MountThreads()
        self._tasks: set[asyncio.Task[None]] = set()
        self._hanging: set[str] = set()
        """Mounts with a step that takes very long."""

    def close(self) -> None:
        """Cancel steps that still run. Threads that hang end with the process."""
        for task in self._tasks:
            task.cancel()
        self._threads.close()
        self._table.close()

    async def on_mount(self, path: str, call: Callable[..., T], *args: Any) -> T:
        """Return ``call(*args)``, run on a thread of the mount that ``path`` is on."""
        return await self._threads.run(path, call, *args)

    async def do(self, path: str, step: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Do a step at ``path``, then rest for as long as it took; raise its exception.

        Return False if it takes very long, because its mount hangs, or if an earlier step does.
        Such a step goes on: its slots stay quiet until it ends.
        """
        point = self._table.of(path).point
        if point in self._hanging:
            return False
        began = time.monotonic()
        task = asyncio.create_task(step())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait([task], timeout=_SLOW_SECONDS)
        if not task.done():
            self._hanging.add(point)
            task.add_done_callback(lambda _task: self._hanging.discard(point))
            return False
        task.result()
        await asyncio.sleep(time.monotonic() - began)
        return True
