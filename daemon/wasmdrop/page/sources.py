"""The parts of the daemon that the page shows and controls."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.work_table import WorkTable
from wasmdrop.page.model import Fleet, Health, Hooks, Limits
from wasmdrop.sandbox.host.compilation import ModuleCompiler
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.settings import GuestMode, Settings


@dataclass(frozen=True)
class Sources:
    """The sources of the page. Functions run on the daemon's event loop unless noted otherwise."""

    settings: Settings
    guest: GuestMode
    table: WorkTable
    metrics: Metrics
    compiler: ModuleCompiler
    cache: ModuleCache
    loop: asyncio.AbstractEventLoop
    """The daemon's event loop."""
    cancel: Callable[[str, str], Awaitable[bool]]
    """Cancels an open job by its id, with a reason; True if it ends as cancelled."""
    health: Callable[[], Awaitable[Health]]
    """Called on the server's event loop."""
    silent_seconds: Callable[[], float]
    """Time since the daemon's event loop was alive; called on the server's thread."""
    space: Mapping[str, tuple[int, int]]
    """Bytes that are free, and all bytes, of the volume of each directory."""
    fleet: Callable[[], Fleet] | None = None
    hooks: Callable[[], Hooks] | None = None
    limits: Callable[[], Limits] | None = None
