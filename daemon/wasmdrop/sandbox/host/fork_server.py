"""The fork server as the daemon sees it: the process that forks children for any request.

Guarantees that the fork server is restarted if it dies.
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
from wasmdrop.sandbox.host.child_process import ChildProcess
from wasmdrop.sandbox.host.forking_process import ForkingProcess
from wasmdrop.sandbox.wire import MISSING, PONG, SWEEP
from wasmdrop.system.job_user import DEFAULT_JOB_USER, JobUser
from wasmdrop.system.processes import python_command

_log = structlog.get_logger()

#: Attempts to start the fork server when the daemon starts. Later there is no limit.
_FIRST_ATTEMPTS = 3

#: Time for the fork server to fork its first child, in seconds. It takes 0.1 s on an idle machine;
#: the rest is for a disk that spins up and a machine that is busy.
_START_SECONDS = 30.0


class ForkServer(ForkingProcess):
    """The fork server, and at most ``idle`` idle children of it.

    ``job_user``: the user that children run as, if the daemon is root. ``jobs``: that may run at a
    time.
    """

    def __init__(self, idle: int, job_user: JobUser = DEFAULT_JOB_USER, *, jobs: int = 1) -> None:
        super().__init__(idle)
        self._job_user = job_user
        self._jobs = jobs
        self.restarts = 0
        """How often the fork server was restarted."""
        self.missing = ""
        """The parts of confinement that this kernel lacks; known when the server has started."""
        self._process: subprocess.Popen[bytes] | None = None
        self._first_child: asyncio.Future[None] | None = None
        self._restart: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._start(stop_after_attempt(_FIRST_ATTEMPTS))
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._restart is not None:
            self._restart.cancel()
        self._disconnect()
        for waiter in self._waiting:
            waiter.cancel()
        await self._wait_for_process()

    def sweep(self) -> None:
        """Have the fork server kill the processes that dead zygotes left behind."""
        if self._control is not None:
            with contextlib.suppress(OSError):  # it is dead, and all its descendants with it
                self._control.send(SWEEP)

    async def _start(self, stop: stop_base) -> None:
        """Start the fork server and wait for its first child; retry until it comes."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type((OSError, SandboxError, TimeoutError)),
            wait=wait_exponential(multiplier=0.05, max=10),
            stop=stop,
            reraise=True,
        ):
            with attempt:
                await self._wait_for_process()
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
            # It inherits nothing from the daemon, not even a variable, and loads nothing whose page
            # tables each fork would have to copy.
            self._process = subprocess.Popen(
                python_command(
                    "wasmdrop.sandbox.guest.fork_server",
                    *(theirs.fileno(), user.uid, user.gid, self._jobs),
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Symbols that are resolved lazily would be resolved again in each child.
                env={"LD_BIND_NOW": "1"},
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._connect(ours)

    async def _wait_for_process(self) -> None:
        """Wait for the previous process, which exits within milliseconds of its socket's end."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
            self._process = None

    def _on_message(self, packet: bytes, descriptors: list[int]) -> bool:
        if packet == PONG:
            return True
        word, _space, rest = packet.partition(b" ")
        if word == MISSING:
            self.missing = rest.decode()
            return True
        return super()._on_message(packet, descriptors)

    def _add(self, child: ChildProcess) -> None:
        if self._first_child is not None and not self._first_child.done():
            self._first_child.set_result(None)
        super()._add(child)

    def _on_lost(self) -> None:
        """Restart the fork server: it died, and its children with it."""
        super()._on_lost()
        _log.error("fork-server-died")
        if self._first_child is not None:
            if not self._first_child.done():
                self._first_child.set_exception(SandboxError("the fork server died"))
        else:
            self.restarts += 1
            self._restart = asyncio.get_running_loop().create_task(self._start(stop_never))
