"""The pool of idle children: asks the forking server for them ahead of need, hands them out once.

Owns the forking server's process. Promises that a child that was handed out is either killed with
:meth:`Child.close` or dead, and that a forking server that died is started again.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Self

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential
from tenacity.stop import stop_base, stop_never

import wasmdrop
from wasmdrop.errors import SandboxError
from wasmdrop.metrics import Pulse
from wasmdrop.sandbox.messages import FORK, FORK_AT_ONCE, FRAME, PING

__all__ = ["Child", "ChildPool"]

_log = structlog.get_logger()

#: Longest packet of the forking server: a word and two numbers, or a sentence.
_PACKET_BYTES = 1024

#: Where this package was imported from, be it by a hook that the forking server does not have.
_PACKAGE_PARENT = str(Path(wasmdrop.__file__).parent.parent)

#: Tries to get the forking server going at the daemon's own start. Later ones never give up.
_FIRST_TRIES = 3

#: How long a child that was handed out goes without a successor while others are idle, in seconds.
#: Forking and warming one up takes a core for some 2 ms, which the job just begun and its journal
#: entry need more; by then most jobs are over.
_SUCCESSOR_SECONDS = 0.005

#: How long a forking server may take to produce its first child, in seconds. It takes 0.1 on an
#: idle machine; the rest is for a disk that is asleep and a machine that is busy.
_START_SECONDS = 30.0


#: How long a child that has reported is left before it is killed, in seconds. The kernel takes a
#: core for a millisecond to take a process apart; by then the results are delivered.
_LINGER_SECONDS = 0.005


class Child:
    """One sandbox process, for one order."""

    def __init__(self, pid: int, link: socket.socket, pidfd: int) -> None:
        self.pid = pid
        self.exit_status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The wait status, once the forking server has told it."""
        self._link = link
        self._pidfd: int | None = pidfd
        link.setblocking(False)

    async def send(self, frame: bytes, descriptors: list[int]) -> None:
        """Send one order; ``OSError`` where the child is dead already."""
        sent = socket.send_fds(self._link, [frame], descriptors)
        if sent < len(frame):
            await asyncio.get_running_loop().sock_sendall(self._link, frame[sent:])

    async def receive(self, max_bytes: int) -> bytes | None:
        """Return the header of the child's report; None where it ended without a whole one.

        Raises ``SandboxError`` where what came is no report at all, or one of more than
        ``max_bytes``.
        """
        loop = asyncio.get_running_loop()
        frame = bytearray()
        while True:
            try:
                data = await loop.sock_recv(self._link, 1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            frame += data
            if len(frame) < FRAME.size:
                continue
            header_bytes, raw_bytes = FRAME.unpack_from(frame)
            if raw_bytes != 0 or header_bytes > max_bytes:
                raise SandboxError("a child sent a frame that is no report")
            if len(frame) >= FRAME.size + header_bytes:
                return bytes(frame[FRAME.size : FRAME.size + header_bytes])

    def kill(self) -> None:
        """End the process now, whatever it does; the only timeout that is sure."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Kill the process and let go of its descriptors; may be called again."""
        if self._pidfd is not None:
            self.kill()
            self._link.close()
            os.close(self._pidfd)
            self._pidfd = None


class ChildPool:
    """Idle children, at most ``idle`` of them, and the forking server that makes them."""

    def __init__(self, idle: int) -> None:
        self.restarts = 0
        """How often the forking server had to be started again."""
        self.missing = ""
        """What the kernel can't do for confinement, in words; known once the pool is entered."""
        self.pulse = Pulse()
        self._idle_wanted = idle
        self._idle: deque[Child] = deque()
        self._waiting: deque[asyncio.Future[Child]] = deque()
        self._alive: dict[int, Child] = {}
        self._leaving: set[Child] = set()
        self._asked = 0
        self._refill_timer: asyncio.TimerHandle | None = None
        self._control: socket.socket | None = None
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

    async def take(self) -> Child:
        """Return a fresh child, an idle one if there is one."""
        while self._idle:
            child = self._idle.popleft()
            if self._idle:
                self._refill_soon()
            else:
                self._refill()
            if not child.exit_status.done():
                return child
            child.close()
        waiter: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._refill()
        return await waiter

    def ping(self) -> None:
        """Ask the forking server for a sign of life."""
        if self._control is not None:
            with contextlib.suppress(OSError):  # busy, or dead, as the reader will find out
                self._control.send(PING)

    def close_soon(self, child: Child) -> None:
        """Close a child that has reported, when its end takes no time from what it reported."""
        self._leaving.add(child)
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._close_leaving, child)

    def _close_leaving(self, child: Child) -> None:
        self._leaving.discard(child)
        child.close()

    def _refill_soon(self) -> None:
        if self._refill_timer is None:
            loop = asyncio.get_running_loop()
            self._refill_timer = loop.call_later(_SUCCESSOR_SECONDS, self._refill)

    def _refill(self) -> None:
        if self._refill_timer is not None:
            self._refill_timer.cancel()
            self._refill_timer = None
        if self._control is None:
            return
        missing = self._idle_wanted + len(self._waiting) - len(self._idle) - self._asked
        for _ in range(missing):
            try:
                self._control.send(FORK_AT_ONCE if self._waiting else FORK)
            except BlockingIOError:
                return  # it is busy enough; its next answer brings us here again
            except OSError:
                return  # it is dead; the reader of the socket finds that out and starts it again
            self._asked += 1

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
                self._spawn()
                self._first_child = asyncio.get_running_loop().create_future()
                self._refill()
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
        with theirs:
            # -I, -S and an empty environment: nothing of the daemon's, not even a variable, goes
            # along, and nothing is loaded that each fork would have to copy the page tables of.
            paths = [*sys.path, _PACKAGE_PARENT]
            program = (
                f"import sys; sys.path[:] = {paths!r}; "
                f"from wasmdrop.sandbox.server import main; main({theirs.fileno()})"
            )
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={},
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        ours.setblocking(False)
        self._control = ours
        self._asked = 0
        asyncio.get_running_loop().add_reader(ours, self._on_packet)

    async def _reap_server(self) -> None:
        """Wait for the old process: it ends within milliseconds of its socket's end."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
            self._process = None

    def _disconnect(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        for child in (*self._idle, *self._leaving):
            child.close()
        self._idle.clear()
        self._leaving.clear()

    def _on_packet(self) -> None:
        while self._control is not None:
            try:
                packet, descriptors, _flags, _address = socket.recv_fds(
                    self._control, _PACKET_BYTES, 2
                )
            except BlockingIOError:
                return
            except OSError:
                packet, descriptors = b"", []
            word, *numbers = packet.split() or [b""]
            self.pulse.beat()
            if word == b"pong":
                continue
            if word == b"missing":
                self.missing = packet.removeprefix(b"missing ").decode()
            elif word == b"child":
                link, pidfd = descriptors
                self._add(Child(int(numbers[0]), socket.socket(fileno=link), pidfd))
            elif word == b"exit":
                self._remove(int(numbers[0]), int(numbers[1]))
            else:
                self._lost()

    def _add(self, child: Child) -> None:
        self._asked -= 1
        self._alive[child.pid] = child
        if self._first_child is not None and not self._first_child.done():
            self._first_child.set_result(None)
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(child)
                break
        else:
            self._idle.append(child)
        self._refill()

    def _remove(self, pid: int, status: int) -> None:
        child = self._alive.pop(pid, None)
        if child is not None and not child.exit_status.done():
            child.exit_status.set_result(status)

    def _lost(self) -> None:
        """Begin anew: the forking server died, and by its last will its children with it."""
        self._disconnect()
        error = SandboxError("the forking server died")
        for child in self._alive.values():
            child.kill()
            if not child.exit_status.done():
                child.exit_status.set_exception(error)
                child.exit_status.exception()  # marks it as seen: nobody need wait for it
        self._alive.clear()
        _log.error("forking-server-died")
        if self._first_child is not None:
            if not self._first_child.done():
                self._first_child.set_exception(error)
        else:
            self.restarts += 1
            self._restart = asyncio.get_running_loop().create_task(self._start(stop_never))
