"""Templates as the daemon keeps them: one for each module that is called again and again.

A template (:mod:`.template`) is made when a module is called for the second time within a while,
beside the job that asks, which does not wait for it. It goes when others are wanted more, or when
nobody called it for a while; jobs that it has children for are finished first.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from wasmdrop.errors import SandboxError
from wasmdrop.outcome import Code
from wasmdrop.sandbox.children import Child, Children
from wasmdrop.sandbox.messages import (
    MAX_RUN_REPORT_BYTES,
    Preparation,
    TemplateOrder,
    encode_frame,
)
from wasmdrop.sandbox.pool import ChildPool
from wasmdrop.sandbox.store import CompiledModule
from wasmdrop.sandbox.verdict import decode_run_report

__all__ = ["Templates"]

_log = structlog.get_logger()

#: Templates at a time. Each takes some 5 MiB with its idle children.
_MOST: Final = 8

#: Modules that are remembered as called once, or as such that have no template.
_REMEMBERED: Final = 1024

#: How long a template lives that nobody calls, in seconds: an idle daemon keeps none.
_UNUSED_SECONDS: Final = 60.0

#: How long making a template, or one fork of it, may take in seconds before jobs go another way.
_PATIENCE_SECONDS: Final = 5.0

#: How often to look for templates that should go, in seconds.
_TIDY_SECONDS: Final = 5.0

_Key = tuple[str, Preparation]


class Template(Children):
    """One template. ``on_gone`` hears when it has died."""

    def __init__(self, idle: int, module: CompiledModule, on_gone: Callable[[], None]) -> None:
        super().__init__(idle)
        self._module = module
        self.used_at = asyncio.get_running_loop().time()
        self._on_gone = on_gone
        self._process: Child | None = None

    async def start(self, process: Child, wanted: Preparation) -> bool:
        """Make ``process`` a template of the module; False where it has no instance to fork."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process, self._doubted = process, process.pid
        with theirs:
            order = encode_frame(TemplateOrder(wanted))
            await process.send(order, [self._module.fd, theirs.fileno()])
        received = await process.receive(MAX_RUN_REPORT_BYTES)
        if received is None or decode_run_report(received[0]).code is not Code.OK:
            ours.close()
            return False
        self._connect(ours)
        return True

    async def take(self) -> Child:
        """Return a fresh child. Raises ``SandboxError`` where none comes."""
        self.used_at = asyncio.get_running_loop().time()
        if self._control is None:
            raise SandboxError("a template died")
        if self._idle:
            return await super().take()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await super().take()
        except TimeoutError:
            self._on_lost()
            raise SandboxError("a template does not answer") from None

    @property
    def is_busy(self) -> bool:
        """Whether jobs run in children of its."""
        return len(self._alive) > len(self._idle) or bool(self._waiting)

    def close(self) -> None:
        """End it, and its children with it."""
        self._disconnect()
        if self._process is not None:
            self._process.close()

    def _on_lost(self) -> None:
        super()._on_lost()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(SandboxError("a template died"))
        self._waiting.clear()
        self.close()
        self._on_gone()


class Templates:
    """The templates of one daemon, forked from ``pool``, each with ``idle`` children ahead."""

    def __init__(self, pool: ChildPool, idle: int) -> None:
        self._pool = pool
        self._idle = idle
        self._ready: OrderedDict[_Key, Template] = OrderedDict()
        self._retired: set[Template] = set()
        self._seen: OrderedDict[_Key, bool] = OrderedDict()
        """Modules that were called, and whether a template is of use to them."""
        self._making: dict[_Key, asyncio.Task[None]] = {}
        self._tidying: asyncio.TimerHandle | None = None

    def of(self, module: CompiledModule, wanted: Preparation) -> Template | None:
        """Return the template of a module that is called now; None where there is none yet."""
        key = (module.sha256, wanted)
        template = self._ready.get(key)
        if template is not None:
            self._ready.move_to_end(key)
            return template
        is_again = self._seen.get(key)
        if is_again is None:
            self._seen[key] = True
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        elif is_again and key not in self._making:
            task = asyncio.create_task(self._make(key, module))
            self._making[key] = task
            task.add_done_callback(lambda _task: self._making.pop(key))
        return None

    def close(self) -> None:
        """End all of them."""
        if self._tidying is not None:
            self._tidying.cancel()
        for task in self._making.values():
            task.cancel()
        for template in (*self._ready.values(), *self._retired):
            template.close()
        self._ready.clear()
        self._retired.clear()

    async def _make(self, key: _Key, module: CompiledModule) -> None:
        template = Template(self._idle, module, lambda: self._gone(key, template))
        process = await self._pool.take()
        started = False
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                started = await template.start(process, key[1])
        except (OSError, SandboxError, TimeoutError) as error:
            _log.warning("no-template", module=module.sha256, error=str(error))
        finally:
            if not started:
                process.close()
        # A module without an instance, or worse, goes the other way, which says what is wrong.
        self._seen[key] = started
        if not started:
            return
        process.exit_status.add_done_callback(lambda _status: self._pool.sweep())
        self._ready[key] = template
        if len(self._ready) > _MOST:
            self._retire(next(iter(self._ready)))
        if self._tidying is None:
            self._tidy()

    def _gone(self, key: _Key, template: Template) -> None:
        """Hear that a template has died."""
        _log.warning("template-died", module=key[0])
        self._retired.discard(template)
        self._seen[key] = False  # whatever its death was, jobs go the way that needs none
        if self._ready.get(key) is template:
            del self._ready[key]

    def _retire(self, key: _Key) -> None:
        self._retired.add(self._ready.pop(key))

    def _tidy(self) -> None:
        """End what nobody calls; again as long as there is any."""
        now = asyncio.get_running_loop().time()
        for key, template in list(self._ready.items()):
            if now - template.used_at > _UNUSED_SECONDS:
                self._retire(key)
        for template in [one for one in self._retired if not one.is_busy]:
            self._retired.remove(template)
            template.close()
        self._tidying = None
        if self._ready or self._retired:
            loop = asyncio.get_running_loop()
            self._tidying = loop.call_later(_TIDY_SECONDS, self._tidy)
