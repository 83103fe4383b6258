"""ZygotePool as the daemon keeps them: one for each module that is called again and again.

A template (:mod:`.template`) is made when a module is called for the second time within a while,
beside the job that asks, which does not wait for it. It goes when others are wanted more, or when
nobody called it for a while; jobs that it has children for are finished first.
"""

import asyncio
import os
import socket
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

import structlog

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.host.captured_output import CapturedOutput
from wasmdrop.sandbox.host.child_process import ChildProcess, ForkingProcess
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.host.procfs import children_of, processor_seconds
from wasmdrop.sandbox.host.reports import decode_run_report
from wasmdrop.sandbox.wire import (
    MAX_RUN_REPORT_BYTES,
    NO_CHILD,
    Preparation,
    ZygoteRequest,
    encode_frame,
)

__all__ = ["ZygotePool"]

_log = structlog.get_logger()

#: ZygotePool at a time. Each takes some 5 MiB with its idle children.
_MOST: Final = 8

#: ZygotePool that are made at a time. Making one takes a process of the module's size beside those
#: that run jobs; a module that finds no room is not waited for, and asks again at its next call.
_MOST_MAKING: Final = 2

#: Modules that are remembered as called once, or as such that have no template.
_REMEMBERED: Final = 1024

#: How long a template lives that nobody calls, in seconds: an idle daemon keeps none.
_UNUSED_SECONDS: Final = 60.0

#: How long making a template, or one fork of it, may take in seconds before jobs go another way.
_PATIENCE_SECONDS: Final = 5.0

#: How often to look for templates that should go, in seconds.
_TIDY_SECONDS: Final = 5.0

#: Processor time that a template may take, in seconds: to be made, and then for each child. Ten
#: times what they take; only one that does something else takes more.
_START_PROCESSOR_SECONDS: Final = 5.0
_FORK_PROCESSOR_SECONDS: Final = 0.02

_Key = tuple[str, Preparation]


class Zygote(ForkingProcess):
    """One template. ``on_gone`` hears when it gives no more children, dead or not."""

    def __init__(self, idle: int, module: CompiledModule, on_gone: Callable[[str], None]) -> None:
        super().__init__(idle)
        self._module = module
        self._prints = False
        """Whether children have their streams from the fork: the order of a plain function brings
        no descriptors."""
        self._asked_streams: deque[CapturedOutput] = deque()
        """Those of the children that it was asked for."""
        self.used_at = asyncio.get_running_loop().time()
        self._on_gone = on_gone
        self._process: ChildProcess | None = None
        self._forked = 0
        self._gives_none = False
        self._untold: dict[ChildProcess, float] = {}
        """Those closed whose end was not told, and when that was seen first."""

    async def start(self, process: ChildProcess, wanted: Preparation) -> bool:
        """Make ``process`` a template of the module; False where it has no instance to fork."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process, self._doubted = process, process.pid
        self._prints = wanted.has_wasi and wanted.function is not None
        is_ready = False
        try:
            with theirs:
                order = encode_frame(ZygoteRequest(wanted))
                await process.send(order, [self._module.fd, theirs.fileno()])
            received = await process.receive(MAX_RUN_REPORT_BYTES)
            is_ready = received is not None and decode_run_report(received[0]).code is Code.OK
        finally:
            if not is_ready:
                ours.close()
        if is_ready:
            self._connect(ours)
        return is_ready

    async def take(self) -> ChildProcess:
        """Return a fresh child. Raises ``SandboxError`` where none comes."""
        self.used_at = asyncio.get_running_loop().time()
        if self._control is None:
            raise SandboxError("a template died")
        if self._idle and not self._idle[0].exit_status.done():
            return await super().take()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await super().take()
        except TimeoutError:
            # Jobs that have their children already need nothing of it.
            self._give_none("a template does not answer")
            raise SandboxError("a template does not answer") from None

    @property
    def is_busy(self) -> bool:
        """Whether jobs run in children of its."""
        idle = set(self._idle)
        return any(not waiter.done() for waiter in self._waiting) or any(
            not child.is_closed and child not in idle for child in self._alive.values()
        )

    def doubt(self) -> None:
        """Look whether it does what no template does by itself; it is not one then any more.

        That is one whose module broke out in it. It may do no harm to others, but it could use what
        is theirs: processes, memory and the processor.
        """
        if self._process is None or self._control is None:
            return
        pid = self._process.pid
        children = children_of(pid)
        now = asyncio.get_running_loop().time()
        closed = [child for child in self._alive.values() if child.is_closed]
        self._untold = {child: self._untold.get(child, now) for child in closed}
        may_take_seconds = _START_PROCESSOR_SECONDS + _FORK_PROCESSOR_SECONDS * self._forked
        if (
            # One that it has forked just now need not have been told of yet.
            len(children) > len(self._alive) + self._asked
            or any(children_of(child) for child in children)
            or any(now - since > _PATIENCE_SECONDS for since in self._untold.values())
            or processor_seconds(pid) > may_take_seconds
        ):
            self._on_lost()

    def close(self) -> None:
        """End it, and its children with it."""
        self._disconnect()
        if self._process is not None:
            self._process.close()

    def _on_word(self, packet: bytes, descriptors: list[int]) -> bool:
        word, _space, number = packet.partition(b" ")
        if word == NO_CHILD and number.isdigit() and self._asked > 0 and not descriptors:
            self._asked -= 1
            if self._asked_streams:
                self._asked_streams.popleft().close()
            self._give_none(f"a template can fork no more: {os.strerror(int(number))}")
            return True
        return super()._on_word(packet, descriptors)

    def _ask(self, request: bytes) -> None:
        if not self._prints:
            super()._ask(request)
            return
        assert self._control is not None  # noqa: S101 - only then is it asked
        streams = CapturedOutput()
        try:
            socket.send_fds(self._control, [request], streams.fds)
        except OSError:
            streams.close()
            raise
        self._asked_streams.append(streams)

    def _add(self, child: ChildProcess) -> None:
        self._forked += 1
        if self._asked_streams:
            child.streams = self._asked_streams.popleft()
        super()._add(child)

    def _disconnect(self) -> None:
        super()._disconnect()
        while self._asked_streams:
            self._asked_streams.popleft().close()

    def _on_lost(self) -> None:
        super()._on_lost()
        self.close()
        self._give_none("a template died")

    def _give_none(self, why: str) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(SandboxError(why))
        self._waiting.clear()
        if not self._gives_none:
            self._gives_none = True
            self._on_gone(why)


class Taken:
    """A child that a template had; an exchange's source of one child."""

    def __init__(self, template: Zygote, child: ChildProcess) -> None:
        self._child = child
        self.streams, child.streams = child.streams, None
        """Those of the child, if it has them already; the caller closes them."""
        self.close_soon = template.close_soon

    async def take(self) -> ChildProcess:
        """Return the child, for one order."""
        return self._child


class ZygotePool:
    """The templates of one daemon, forked from ``pool``, each with ``idle`` children ahead."""

    def __init__(self, pool: ForkServer, idle: int) -> None:
        self._pool = pool
        self._idle = idle
        self._ready: OrderedDict[_Key, Zygote] = OrderedDict()
        self._retired: set[Zygote] = set()
        self._seen: OrderedDict[_Key, bool] = OrderedDict()
        """Modules that were called, and whether a template is of use to them."""
        self._making: dict[_Key, asyncio.Task[None]] = {}
        self._tidying: asyncio.TimerHandle | None = None

    async def take(self, module: CompiledModule, wanted: Preparation) -> Taken | None:
        """Return a fresh child of the module's template; None where there is none to be had."""
        template = self._of(module, wanted)
        if template is None:
            return None
        try:
            return Taken(template, await template.take())
        except SandboxError:
            return None

    def _of(self, module: CompiledModule, wanted: Preparation) -> Zygote | None:
        """Return the template of a module that is called now; None where there is none yet."""
        key = (module.sha256, wanted)
        template = self._ready.get(key)
        if template is not None:
            self._ready.move_to_end(key)
            return template
        is_again = self._seen.get(key)
        if is_again is None:
            self._remember(key, is_of_use=True)
        elif is_again and key not in self._making and len(self._making) < _MOST_MAKING:
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
        template = Zygote(self._idle, module, lambda why: self._gone(key, template, why))
        process = await self._pool.take()
        # However it ends, and be it before it was one: it could fork.
        process.exit_status.add_done_callback(lambda _status: self._pool.sweep())
        started = False
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                started = await template.start(process, key[1])
        except (OSError, SandboxError, TimeoutError) as error:
            _log.warning("zygote-unavailable", module=module.sha256, error=str(error))
        finally:
            if not started:
                process.close()
        # A module without an instance, or worse, goes the other way, which says what is wrong.
        self._remember(key, is_of_use=started)
        if not started:
            return
        self._ready[key] = template
        if len(self._ready) > _MOST:
            self._retire(next(iter(self._ready)))
        if self._tidying is None:
            self._tidy()

    def _gone(self, key: _Key, template: Zygote, why: str) -> None:
        """Hear that a template gives no more children."""
        _log.warning("zygote-exited", module=key[0], reason=why)
        # Whatever it was, jobs go the way that needs none.
        self._remember(key, is_of_use=False)
        if self._ready.get(key) is template:
            self._retire(key)  # jobs may still run in its children

    def _remember(self, key: _Key, *, is_of_use: bool) -> None:
        self._seen[key] = is_of_use
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)

    def _retire(self, key: _Key) -> None:
        self._retired.add(self._ready.pop(key))

    def _tidy(self) -> None:
        """End what nobody calls; again as long as there is any."""
        now = asyncio.get_running_loop().time()
        for key, template in list(self._ready.items()):
            if now - template.used_at > _UNUSED_SECONDS:
                self._retire(key)
        for template in (*self._ready.values(), *self._retired):
            template.doubt()
        for template in [one for one in self._retired if not one.is_busy]:
            self._retired.remove(template)
            template.close()
        self._pool.sweep()
        self._tidying = None
        if self._ready or self._retired:
            loop = asyncio.get_running_loop()
            self._tidying = loop.call_later(_TIDY_SECONDS, self._tidy)
