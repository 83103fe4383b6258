"""The zygotes of the daemon: one for each module that is called again and again.

A zygote is a process that has prepared a module and forks a child for each job; it runs the program
in ``guest/native``. It is started when a module is called for the second time within a while,
beside the job, which does not wait for it.
It is evicted when other modules are called more recently, or when its module is not called for a
while; jobs in its children are finished first.
"""

import asyncio
import contextlib
import functools
import os
import socket
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.sandbox.host.captured_output import CapturedOutput
from wasmdrop.sandbox.host.child_process import ChildProcess
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.forking_process import ForkingProcess
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.host.native_start import execute_native
from wasmdrop.sandbox.host.procfs import children_of, processor_seconds
from wasmdrop.sandbox.wire import NO_CHILD, Preparation, ZygoteRequest
from wasmdrop.system.awake_wait import wait_awake

_log = structlog.get_logger()

#: Limit of zygotes. Each takes about 4 MiB with its idle children.
_MAX_ZYGOTES: Final = 8

#: Idle children of all zygotes together, as a multiple of those that one may have. One may have a
#: child per worker, because a burst of one module's jobs can use all workers. Twice that serves
#: bursts of two modules in turn, and does not grow with the number of zygotes.
_IDLE_RATIO: Final = 2

#: Idle children that each zygote has even so. If a job takes the only one, its replacement is
#: forked while the job runs, which makes a Go job take a fifth longer.
_MIN_IDLE: Final = 2

#: Limit of zygotes being started. Each takes a process of the module's size beside those that run
#: jobs. A module that finds no room does not wait, and tries again at its next call.
_MAX_STARTING: Final = 2

#: Modules that are remembered as called once, or as unfit for a zygote.
_MAX_REMEMBERED: Final = 1024

#: Time without a call after which a zygote is evicted, in seconds: an idle daemon has none.
_UNUSED_SECONDS: Final = 60.0

#: Time to start a zygote, or to fork a child, in seconds; jobs then go without the zygote.
_TIMEOUT_SECONDS: Final = 5.0

#: Interval between checks of all zygotes, in seconds.
_CHECK_SECONDS: Final = 5.0

#: Processor time that a zygote may take to start, and then for each child, in seconds. These are
#: many times the usual values; a zygote that exceeds them does other work.
_START_PROCESSOR_SECONDS: Final = 5.0
_FORK_PROCESSOR_SECONDS: Final = 0.02

#: Above all numbers of errors (linux/err.h).
_MAX_ERRNO: Final = 4095

_Key = tuple[str, Preparation]


class Zygote(ForkingProcess):
    """One zygote.

    ``cpu_seconds``: the limit of processor time of its first idle children. ``on_gone`` is called
    with the zygote and a reason when it forks no more children.
    """

    def __init__(
        self, module: CompiledModule, cpu_seconds: int, on_gone: Callable[["Zygote", str], None]
    ) -> None:
        super().__init__(0)
        self._cpu_seconds = cpu_seconds
        self._module = module
        self._has_output = False
        """Whether children get their output from the fork on, because the module imports WASI."""
        self._requested_outputs: deque[CapturedOutput] = deque()
        """The outputs of the children that were requested and have not come yet."""
        self.used_at = asyncio.get_running_loop().time()
        self._on_gone = on_gone
        self._process: ChildProcess | None = None
        self._forked = 0
        self.is_gone = False
        """Whether it forks no more children."""
        self._unreported: dict[ChildProcess, float] = {}
        """Closed children with no exit status yet, and when we first noticed."""

    async def start(
        self,
        process: ChildProcess,
        preparation: Preparation,
        directories: Sequence[int],
    ) -> bool:
        """Make ``process`` the zygote. Return False if the module cannot be prepared.

        Raise ``SandboxError`` or ``OSError`` if the program does not work.

        ``directories``: the descriptors that a request has besides, see :mod:`.wire`.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = process
        self._has_output = preparation.has_wasi
        is_started = False
        try:
            with theirs:
                descriptors = [self._module.fd, theirs.fileno(), *directories]
                request = ZygoteRequest(preparation, self._module.sha256)
                is_started = await execute_native(process, request, descriptors)
        finally:
            if not is_started:
                ours.close()
        if is_started:
            self._connect(ours)
        return is_started

    async def take(self, cpu_seconds: int | None = None) -> ChildProcess:
        """Return a fresh child. Raise ``SandboxError`` if none comes."""
        self.used_at = asyncio.get_running_loop().time()
        if self._control is None:
            raise SandboxError("a zygote died")
        return await super().take(cpu_seconds)

    @property
    def is_busy(self) -> bool:
        """Whether jobs run in its children, or wait for one."""
        idle = set(self._idle)
        return any(not waiter.done() for waiter in self._waiting) or any(
            not child.is_closed and child not in idle for child in self._alive.values()
        )

    def check(self) -> None:
        """End the zygote if it does anything that a zygote does not do.

        Its module may have broken out in it. It can then harm no other job, but it could use
        processes, memory and processor time.
        """
        if self._process is None or self._control is None:
            return
        pid = self._process.pid
        children = children_of(pid)
        now = asyncio.get_running_loop().time()
        closed = [child for child in self._alive.values() if child.is_closed]
        self._unreported = {child: self._unreported.get(child, now) for child in closed}
        allowed_seconds = _START_PROCESSOR_SECONDS + _FORK_PROCESSOR_SECONDS * self._forked
        if (
            # A child that it has just forked may not be announced yet.
            len(children) > len(self._alive) + len(self._requested)
            or any(children_of(child) for child in children)
            or any(now - since > _TIMEOUT_SECONDS for since in self._unreported.values())
            or processor_seconds(pid) > allowed_seconds
        ):
            self._on_lost()

    def close(self) -> None:
        """End the zygote and its children."""
        self._disconnect()
        if self._process is not None:
            self._process.close()

    async def _wait(self, waiter: "asyncio.Future[ChildProcess]") -> ChildProcess:
        """Wait for a new child. Raise ``SandboxError`` if none comes."""
        try:
            if not await wait_awake(waiter, _TIMEOUT_SECONDS):
                # Its present children do not need it, so they are left alone.
                self._give_up("a zygote does not answer")
            return await waiter
        finally:
            waiter.cancel()

    def _on_message(self, packet: bytes, descriptors: list[int]) -> bool:
        word, _space, number = packet.partition(b" ")
        if word == NO_CHILD and number.isdigit() and self._requested and not descriptors:
            if int(number) > _MAX_ERRNO:
                return False
            self._requested.popleft()
            if self._requested_outputs:
                self._requested_outputs.popleft().close()
            self._give_up(f"a zygote cannot fork: {os.strerror(int(number))}")
            return True
        return super()._on_message(packet, descriptors)

    def _request_child(self, message: bytes) -> None:
        if not self._has_output:
            super()._request_child(message)
            return
        assert self._control is not None  # noqa: S101 - the caller checks
        output = CapturedOutput()
        try:
            socket.send_fds(self._control, [message], output.fds)
        except OSError:
            output.close()
            raise
        self._requested_outputs.append(output)

    def _new_child(
        self, pid: int, link: socket.socket, pidfd: int, cpu_seconds: int | None
    ) -> ChildProcess:
        assert self._process is not None  # noqa: S101 - it has forked
        self._forked += 1
        output = self._requested_outputs.popleft() if self._requested_outputs else None
        return ChildProcess(
            pid,
            link,
            pidfd,
            self._process.pid,
            is_native=True,
            cpu_limit_seconds=cpu_seconds,
            output=output,
        )

    def _disconnect(self) -> None:
        super()._disconnect()
        while self._requested_outputs:
            self._requested_outputs.popleft().close()

    def _on_lost(self) -> None:
        super()._on_lost()
        self.close()
        self._give_up("a zygote died")

    def _give_up(self, reason: str) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(SandboxError(reason))
        self._waiting.clear()
        if not self.is_gone:
            self.is_gone = True
            self._on_gone(self, reason)


class ZygotePool:
    """The zygotes, made of children of ``fork_server``; each has at most ``idle`` idle children."""

    def __init__(self, fork_server: ForkServer, idle: int) -> None:
        self._fork_server = fork_server
        self._idle = idle
        self._ready: OrderedDict[_Key, Zygote] = OrderedDict()
        """The least recently used first."""
        self._retired: set[Zygote] = set()
        """Evicted zygotes whose last jobs still run."""
        self._seen: OrderedDict[_Key, bool] = OrderedDict()
        """Modules that were called, and whether a zygote can be started for them."""
        self._starting: dict[_Key, asyncio.Task[None]] = {}
        self._check_timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._ready)

    async def acquire(
        self,
        module: CompiledModule,
        preparation: Preparation,
        cpu_seconds: int,
        directories: Sequence[int],
    ) -> tuple[ChildProcess, Zygote] | None:
        """Return a fresh child of the module's zygote, and the zygote; None if there is none.

        ``cpu_seconds``: the child's limit of processor time. It does not select the zygote, nor do
        ``directories``: the parent of the directories of jobs, and the grants, if the job has them.
        """
        zygote = self._find(module, preparation, cpu_seconds, directories)
        if zygote is None:
            return None
        try:
            return await zygote.take(cpu_seconds), zygote
        except SandboxError:
            return None

    def _find(
        self,
        module: CompiledModule,
        preparation: Preparation,
        cpu_seconds: int,
        directories: Sequence[int],
    ) -> Zygote | None:
        """Return the zygote of a module that is called now; start one if it is called again."""
        key = (module.sha256, preparation)
        zygote = self._ready.get(key)
        if zygote is not None:
            self._ready.move_to_end(key)
            return zygote
        is_fit = self._seen.get(key)
        if is_fit is None:
            self._remember(key, is_fit=True)
        elif is_fit and key not in self._starting and len(self._starting) < _MAX_STARTING:
            try:
                # The job may close them before the zygote has them.
                kept = _duplicates(directories)
            except OSError:
                return None  # no descriptor is left; the next call tries again
            task = asyncio.create_task(self._start(key, module, cpu_seconds, kept))
            self._starting[key] = task
            task.add_done_callback(lambda _task: self._starting.pop(key))
        return None

    def close(self) -> None:
        """End all zygotes."""
        if self._check_timer is not None:
            self._check_timer.cancel()
        for task in self._starting.values():
            task.cancel()
        for zygote in (*self._ready.values(), *self._retired):
            zygote.close()
        self._ready.clear()
        self._retired.clear()

    async def _start(
        self, key: _Key, module: CompiledModule, cpu_seconds: int, directories: list[int]
    ) -> None:
        zygote = Zygote(module, cpu_seconds, functools.partial(self._on_gone, key))
        process: ChildProcess | None = None
        is_started = False
        try:
            process = await self._fork_server.take()
            # However the process ends, and even before it is a zygote: it could fork.
            process.exit_status.add_done_callback(lambda _status: self._fork_server.sweep())
            start = asyncio.ensure_future(zygote.start(process, key[1], directories))
            try:
                if not await wait_awake(start, _TIMEOUT_SECONDS):
                    raise SandboxError("a zygote does not answer")
            finally:
                start.cancel()
                await asyncio.wait([start])  # before its descriptors are closed
            # It may have died since it reported.
            is_started = start.result() and not zygote.is_gone
        except (OSError, SandboxError) as error:
            _log.warning("zygote-unavailable", module=module.sha256, error=str(error))
        finally:
            for fd in directories:
                os.close(fd)
            if process is not None and not is_started:
                process.close()
        # A module that cannot be prepared, or worse, runs in other children; they report why.
        self._remember(key, is_fit=is_started)
        if not is_started:
            return
        _log.debug("zygote-started", module=module.sha256)
        self._ready[key] = zygote
        if len(self._ready) > _MAX_ZYGOTES:
            self._retire(next(iter(self._ready)))
        self._share_idle()
        if self._check_timer is None:
            self._check()

    def _on_gone(self, key: _Key, zygote: Zygote, reason: str) -> None:
        """Evict a zygote that forks no more children."""
        _log.warning("zygote-exited", module=key[0], reason=reason)
        # Whatever the reason is, the module's jobs run without a zygote from now on.
        self._remember(key, is_fit=False)
        if self._ready.get(key) is zygote:
            self._retire(key)
            self._share_idle()

    def _remember(self, key: _Key, *, is_fit: bool) -> None:
        self._seen[key] = is_fit
        if len(self._seen) > _MAX_REMEMBERED:
            self._seen.popitem(last=False)

    def _retire(self, key: _Key) -> None:
        zygote = self._ready.pop(key)
        zygote.set_idle(0)
        self._retired.add(zygote)

    def _share_idle(self) -> None:
        """Divide the idle children among the zygotes."""
        if self._ready:
            share = max(_MIN_IDLE, self._idle * _IDLE_RATIO // len(self._ready))
            for zygote in self._ready.values():
                zygote.set_idle(min(self._idle, share))

    def _check(self) -> None:
        """Check all zygotes and close those that are no longer needed; repeat while there are."""
        now = asyncio.get_running_loop().time()
        for key, zygote in list(self._ready.items()):
            if now - zygote.used_at > _UNUSED_SECONDS:
                self._retire(key)
        self._share_idle()
        for zygote in (*self._ready.values(), *self._retired):
            zygote.check()
        for zygote in [one for one in self._retired if not one.is_busy]:
            self._retired.remove(zygote)
            zygote.close()
        self._fork_server.sweep()
        self._check_timer = None
        if self._ready or self._retired:
            loop = asyncio.get_running_loop()
            self._check_timer = loop.call_later(_CHECK_SECONDS, self._check)


def _duplicates(fds: Sequence[int]) -> list[int]:
    with contextlib.ExitStack() as stack:
        copies = []
        for fd in fds:
            copies.append(os.dup(fd))
            stack.callback(os.close, copies[-1])
        stack.pop_all()
    return copies
