"""Children as the daemon sees them: asked for ahead of need from a process that forks, used once.

Promises that a child that was handed out is either killed with
:meth:`ChildProcess.close` or dead. The
process that forks them may have read a module's machine code, and so be the module's: what it says
is held against what it was asked for, and nobody is killed on its word alone.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
from collections import deque
from typing import Final

import structlog

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.sandbox.host.captured_output import CapturedOutput
from wasmdrop.sandbox.host.procfs import is_child_of
from wasmdrop.sandbox.wire import FORK, FORK_AT_ONCE, FRAME, PING
from wasmdrop.system.heartbeat import Heartbeat

__all__ = ["ChildProcess", "ForkingProcess"]

_log = structlog.get_logger()

#: Longest packet of a forking process: a word and two numbers, or a sentence.
_PACKET_BYTES: Final = 1024

#: How long a child that was handed out goes without a successor while others are idle, in seconds.
#: Forking and warming one up takes a core for some 2 ms, which the job just begun and its journal
#: entry need more; by then most jobs are over.
_SUCCESSOR_SECONDS: Final = 0.005

#: How long a child that has reported is left before it is killed, in seconds. The kernel takes a
#: core for a millisecond to take a process apart; by then the results are delivered.
_LINGER_SECONDS: Final = 0.005

#: How long a child may take to end by itself, once it was told to, in seconds.
_END_SECONDS: Final = 1.0


class ChildProcess:
    """One sandbox process, for one order.

    ``doubted_parent``: the process that says to have forked it, where its word is not enough.
    """

    def __init__(
        self, pid: int, link: socket.socket, pidfd: int, doubted_parent: int | None = None
    ) -> None:
        self.pid = pid
        self.exit_status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The wait status, once its parent has told it."""
        self.cpu_seconds: float | None = None
        """The processor time of the whole process, once its parent has told it."""
        self.streams: CapturedOutput | None = None
        """Its standard output and error, if it has had them since the fork; closed with it."""
        self._link = link
        self._pidfd: int | None = pidfd
        self._doubted_parent = doubted_parent
        link.setblocking(False)

    async def send(self, frame: bytes, descriptors: list[int]) -> None:
        """Send one order; ``OSError`` where the child is dead already."""
        sent = socket.send_fds(self._link, [frame], descriptors)
        if sent < len(frame):
            await asyncio.get_running_loop().sock_sendall(self._link, frame[sent:])

    async def receive(self, max_bytes: int, binary_bytes: int = -1) -> tuple[bytes, bool] | None:
        """Return the child's report; None where it ended without a whole one.

        It is the header of a frame, of at most ``max_bytes``, or the raw part (then with True),
        where that has ``binary_bytes``. Raises ``SandboxError`` where what came is neither.
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
            is_binary = header_bytes == 0 and raw_bytes == binary_bytes
            if not is_binary and (raw_bytes != 0 or header_bytes > max_bytes):
                raise SandboxError("a child sent a frame that is no report")
            end = FRAME.size + header_bytes + raw_bytes
            if len(frame) >= end:
                return bytes(frame[FRAME.size : end]), is_binary

    def is_quiet(self) -> bool:
        """Whether the process has said nothing that nobody has read, and has not hung up."""
        try:
            self._link.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def kill(self) -> None:
        """End the process now, whatever it does; the only timeout that is sure."""
        if self._pidfd is None:
            return
        parent = self._doubted_parent
        if parent is not None:
            # Its link may be held by others, which then would keep whoever waits for it for ever.
            with contextlib.suppress(OSError):
                self._link.shutdown(socket.SHUT_RDWR)
            if not is_child_of(self._pidfd, parent):
                return  # dead, or a process that somebody wants dead by our hand
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Kill the process and let go of its descriptors; may be called again."""
        if self._pidfd is not None:
            if not self.exit_status.done():
                self.kill()
            self._link.close()
            os.close(self._pidfd)
            self._pidfd = None
            if self.streams is not None:
                self.streams.close()

    @property
    def is_closed(self) -> bool:
        """Whether nobody has a use for it any more."""
        return self._pidfd is None

    def hang_up(self) -> bool:
        """Tell the process that it may end; False where it is not left to do so by itself."""
        if self._doubted_parent is None:
            return False
        # To look whom one kills takes longer than to be waited for.
        self._link.close()
        return True

    def ended(self, status: int, cpu_seconds: float) -> None:
        """Take how the process ended, and its processor time."""
        if not self.exit_status.done():
            self.cpu_seconds = cpu_seconds
            self.exit_status.set_result(status)

    def lost(self) -> None:
        """Hear that nobody will tell how the process ended."""
        if not self.exit_status.done():
            self.exit_status.set_exception(SandboxError("the process that forks children died"))
            self.exit_status.exception()  # marks it as seen: nobody need wait for it


class ForkingProcess:
    """Idle children, at most ``idle`` of them, of one process that forks."""

    def __init__(self, idle: int) -> None:
        self.heartbeat = Heartbeat()
        self._doubted: int | None = None
        """The process that forks, where it is not the daemon's own."""
        self._idle_wanted = idle
        self._idle: deque[ChildProcess] = deque()
        self._waiting: deque[asyncio.Future[ChildProcess]] = deque()
        self._alive: dict[int, ChildProcess] = {}
        self._leaving: dict[ChildProcess, float] = {}
        self._ending: dict[ChildProcess, float] = {}
        """Those that have reported, then those that were told to end, and until when they may."""
        self._leaving_timer: asyncio.TimerHandle | None = None
        self._ending_timer: asyncio.TimerHandle | None = None
        self._asked = 0
        self._refill_timer: asyncio.TimerHandle | None = None
        self._control: socket.socket | None = None

    async def take(self) -> ChildProcess:
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
        waiter: asyncio.Future[ChildProcess] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._refill()
        return await waiter

    def ping(self) -> None:
        """Ask the process for a sign of life."""
        if self._control is not None:
            with contextlib.suppress(OSError):  # busy, or dead, as the reader will find out
                self._control.send(PING)

    def close_soon(self, child: ChildProcess) -> None:
        """Close a child that has reported, when its end takes no time from what it reported."""
        loop = asyncio.get_running_loop()
        self._leaving[child] = loop.time() + _LINGER_SECONDS
        if self._leaving_timer is None:
            self._leaving_timer = loop.call_at(self._leaving[child], self._let_go)

    def _let_go(self) -> None:
        """Tell children to end, or end them, whose time it is; one timer serves all."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for child in _due(self._leaving, now):
            if not child.exit_status.done() and child.hang_up():
                self._ending[child] = now + _END_SECONDS
            else:
                child.close()
        self._leaving_timer = None
        if self._leaving:
            self._leaving_timer = loop.call_at(next(iter(self._leaving.values())), self._let_go)
        if self._ending and self._ending_timer is None:
            self._ending_timer = loop.call_later(_END_SECONDS, self._end)

    def _end(self) -> None:
        """End children that were told to, and did not."""
        loop = asyncio.get_running_loop()
        for child in _due(self._ending, loop.time()):
            child.close()
        self._ending_timer = loop.call_later(_END_SECONDS, self._end) if self._ending else None

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
                self._ask(FORK_AT_ONCE if self._waiting else FORK)
            except BlockingIOError:
                return  # it is busy enough; its next answer brings us here again
            except OSError:
                return  # it is dead; the reader of the socket finds that out
            self._asked += 1

    def _ask(self, request: bytes) -> None:
        """Ask for one child; ``OSError`` if the process is busy or dead."""
        assert self._control is not None  # noqa: S101 - only then is it asked
        self._control.send(request)

    def _connect(self, control: socket.socket) -> None:
        """Speak from now on to a new process by the socket ``control``."""
        control.setblocking(False)
        self._control = control
        self._asked = 0
        asyncio.get_running_loop().add_reader(control, self._on_packet)
        self._refill()

    def _disconnect(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        for timer in (self._leaving_timer, self._ending_timer):
            if timer is not None:
                timer.cancel()
        self._leaving_timer = self._ending_timer = None
        for child in (*self._idle, *self._leaving, *self._ending):
            child.close()
        self._idle.clear()
        self._leaving.clear()
        self._ending.clear()

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
            self.heartbeat.beat()
            if not self._on_word(packet, descriptors):
                for fd in descriptors:
                    os.close(fd)
                self._on_lost()

    def _on_word(self, packet: bytes, descriptors: list[int]) -> bool:
        """Take what the process says; False where it has died or says what nobody asked for."""
        word, *numbers = packet.split() or [b""]
        if not all(number.isdigit() for number in numbers):
            return False
        pid, *status = [int(number) for number in numbers] or [0]
        if word == b"child" and self._asked > 0 and len(descriptors) == 2:  # noqa: PLR2004
            if pid in self._alive:
                return False
            try:
                link = socket.socket(fileno=descriptors[0])
            except OSError:
                return False
            self._add(ChildProcess(pid, link, descriptors[1], self._doubted))
        elif word == b"exit" and pid in self._alive and not descriptors and _is_end(status):
            child = self._alive.pop(pid)
            child.ended(status[0], status[1] / 1e6)
            if self._ending.pop(child, None) is not None:
                child.close()
        else:
            return False
        return True

    def _on_lost(self) -> None:
        """Give up all that came of a process that has died, or can't be believed."""
        self._disconnect()
        for child in self._alive.values():
            child.kill()
            child.lost()
        self._alive.clear()

    def _add(self, child: ChildProcess) -> None:
        self._asked -= 1
        self._alive[child.pid] = child
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(child)
                break
        else:
            self._idle.append(child)
        self._refill()


def _due(children: dict[ChildProcess, float], now: float) -> list[ChildProcess]:
    """Take those out whose time has come; they are in the order of their times."""
    due = list(itertools.takewhile(lambda child: children[child] <= now, children))
    for child in due:
        del children[child]
    return due


def _is_end(status: list[int]) -> bool:
    """Whether this is the wait status of a process that has ended, in an exit or of a signal.

    The second number is its processor time in microseconds.
    """
    if len(status) != 2 or status[0] > 0xFFFF or status[1] >= 1 << 63:  # noqa: PLR2004 - wait(2)
        return False
    return os.WIFEXITED(status[0]) or (
        os.WIFSIGNALED(status[0]) and os.WTERMSIG(status[0]) < signal.NSIG
    )
