"""The pool of children: idle ones that wait for any order, and the forking server that makes them.

Owns the forking server's process. Promises that a forking server that died is started again.
"""

import asyncio
import contextlib
import socket
import subprocess
from typing import Self

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential
from tenacity.stop import stop_base, stop_never

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.sandbox.host.child_process import ChildProcess, ForkingProcess
from wasmdrop.sandbox.wire import SWEEP
from wasmdrop.system.job_user import DEFAULT_JOB_USER, JobUser
from wasmdrop.system.processes import python_command

__all__ = ["ForkServer"]

_log = structlog.get_logger()

#: Tries to get the forking server going at the daemon's own start. Later ones never give up.
_FIRST_TRIES = 3

#: How long a forking server may take to produce its first child, in seconds. It takes 0.1 on an
#: idle machine; the rest is for a disk that is asleep and a machine that is busy.
_START_SECONDS = 30.0


class ForkServer(ForkingProcess):
    """Idle children, at most ``idle`` of them, and the forking server that makes them.

    ``job_user``: whom they run as, if the daemon is root.
    """

    def __init__(self, idle: int, job_user: JobUser = DEFAULT_JOB_USER) -> None:
        super().__init__(idle)
        self._job_user = job_user
        self.restarts = 0
        """How often the forking server had to be started again."""
        self.missing = ""
        """What the kernel can't do for confinement, in words; known once the pool is entered."""
        self._process: subprocess.Popen[bytes] | None = None
        self._first_child: asyncio.Future[None] | None = None
        self._restart: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._start(stop_after_attempt(_FIRST_TRIES))
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._restart is not None:
            self._restart.cancel()
        self._disconnect()
        for waiter in self._waiting:
            waiter.cancel()
        await self._reap_server()

    def sweep(self) -> None:
        """Have the forking server end what templates, or their children, left behind."""
        if self._control is not None:
            with contextlib.suppress(OSError):  # it is dead, and all below it with it
                self._control.send(SWEEP)

    async def _start(self, stop: stop_base) -> None:
        """Start the forking server and wait for its first child, again until it comes."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type((OSError, SandboxError, TimeoutError)),
            wait=wait_exponential(multiplier=0.05, max=10),
            stop=stop,
            reraise=True,
        ):
            with attempt:
                await self._reap_server()
                self._first_child = asyncio.get_running_loop().create_future()
                self._spawn()
                try:
                    async with asyncio.timeout(_START_SECONDS):
                        await self._first_child
                except BaseException:
                    self._disconnect()
                    raise
                finally:
                    self._first_child = None

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        user = self._job_user
        with theirs:
            # Nothing of the daemon's, not even a variable, goes along, and nothing is loaded that
            # each fork would have to copy the page tables of.
            self._process = subprocess.Popen(
                python_command(
                    "wasmdrop.sandbox.guest.fork_server", theirs.fileno(), user.uid, user.gid
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Symbols that are resolved late would be resolved in every child anew.
                env={"LD_BIND_NOW": "1"},
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._connect(ours)

    async def _reap_server(self) -> None:
        """Wait for the old process: it ends within milliseconds of its socket's end."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
            self._process = None

    def _on_word(self, packet: bytes, descriptors: list[int]) -> bool:
        if packet == b"pong":
            return True
        if packet.startswith(b"missing "):
            self.missing = packet.removeprefix(b"missing ").decode()
            return True
        return super()._on_word(packet, descriptors)

    def _add(self, child: ChildProcess) -> None:
        if self._first_child is not None and not self._first_child.done():
            self._first_child.set_result(None)
        super()._add(child)

    def _on_lost(self) -> None:
        """Begin anew: the forking server died, and by its last will its children with it."""
        super()._on_lost()
        _log.error("fork-server-died")
        if self._first_child is not None:
            if not self._first_child.done():
                self._first_child.set_exception(SandboxError("the forking server died"))
        else:
            self.restarts += 1
            self._restart = asyncio.get_running_loop().create_task(self._start(stop_never))
