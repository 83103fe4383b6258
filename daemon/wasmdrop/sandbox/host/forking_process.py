"""A process that forks children ahead of need, as the daemon sees it: the fork server or a zygote.

A zygote may belong to a guest. So each message is checked against the requests that it answers, and
no process is killed on a zygote's word alone.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections import deque
from typing import Final

from wasmdrop.sandbox.host.child_process import ChildProcess
from wasmdrop.sandbox.wire import CHILD, EXIT, FORK, PING
from wasmdrop.system.heartbeat import Heartbeat

#: Largest packet on a control socket: a word and three numbers, or a sentence.
_PACKET_BYTES: Final = 1024

#: Delay before an acquired child is replaced while others are idle, in seconds. To fork a
#: child takes a core for up to 2 ms, which the job that just began and its journal entry need more.
#: By then most jobs are over.
_REFILL_SECONDS: Final = 0.005

#: Delay before a child that reported is ended, in seconds. Its end takes the kernel a millisecond
#: of a core. By then the results are delivered.
_LINGER_SECONDS: Final = 0.005

#: Time for a child to exit after its link was closed, in seconds; it is then killed.
_EXIT_SECONDS: Final = 1.0


class ForkingProcess:
    """A process that forks, and at most ``idle`` idle children of it.

    Guarantees that its children are killed when the process is lost.
    """

    def __init__(self, idle: int) -> None:
        self.heartbeat = Heartbeat()
        self._idle_wanted = idle
        self._idle: deque[ChildProcess] = deque()
        self._waiting: dict[asyncio.Future[ChildProcess], int | None] = {}
        """Jobs that wait for a child, and the limit of processor time that it must have."""
        self._cpu_seconds: int | None = None
        """The limit of the latest job, and so of the next idle children."""
        self._alive: dict[int, ChildProcess] = {}
        self._ending: dict[ChildProcess, asyncio.TimerHandle] = {}
        """Released children, and the timer of the next step to their end."""
        self._requested: deque[int | None] = deque()
        """The limits of the children that were requested and have not come yet."""
        self._refill_timer: asyncio.TimerHandle | None = None
        self._control: socket.socket | None = None

    async def take(self, cpu_seconds: int | None = None) -> ChildProcess:
        """Return a fresh child: an idle one, or else a new one.

        ``cpu_seconds``: its limit of processor time, if it has that from the fork on.
        """
        self._cpu_seconds = cpu_seconds
        for child in [one for one in self._idle if one.cpu_limit_seconds == cpu_seconds]:
            self._idle.remove(child)
            if self._idle:
                self._refill_soon()
            else:
                self._refill()
            if not child.exit_status.done():
                return child
            child.close()
        if self._idle:
            self._idle.popleft().close()  # its limit is another; the next one gets this one
        waiter: asyncio.Future[ChildProcess] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = cpu_seconds
        self._refill()
        return await self._wait(waiter)

    def release(self, child: ChildProcess) -> None:
        """End a child whose request is over: now if it has not reported, else in a moment."""
        if not child.has_reported:
            child.close()
            return
        loop = asyncio.get_running_loop()
        self._ending[child] = loop.call_later(_LINGER_SECONDS, self._end, child)

    def ping(self) -> None:
        """Ask the process for a sign of life."""
        if self._control is not None:
            with contextlib.suppress(OSError):  # busy, or dead: the reader will find out
                self._control.send(PING)

    def set_idle(self, count: int) -> None:
        """Change the limit of idle children; close those above it."""
        self._idle_wanted = count
        while len(self._idle) > count:
            self._idle.pop().close()
        self._refill()

    async def _wait(self, waiter: "asyncio.Future[ChildProcess]") -> ChildProcess:
        """Wait for a new child."""
        return await waiter

    def _end(self, child: ChildProcess) -> None:
        """Have a child exit by itself, or kill it if that is not possible."""
        if child.exit_status.done() or not child.hang_up():
            self._kill(child)
        else:
            loop = asyncio.get_running_loop()
            self._ending[child] = loop.call_later(_EXIT_SECONDS, self._kill, child)

    def _kill(self, child: ChildProcess) -> None:
        self._ending.pop(child).cancel()
        child.close()

    def _refill_soon(self) -> None:
        if self._refill_timer is None:
            loop = asyncio.get_running_loop()
            self._refill_timer = loop.call_later(_REFILL_SECONDS, self._refill)

    def _refill(self) -> None:
        if self._refill_timer is not None:
            self._refill_timer.cancel()
            self._refill_timer = None
        if self._control is None:
            return
        on_the_way = list(self._requested)
        missing = []
        for waiter, cpu_seconds in self._waiting.items():
            if waiter.done():
                continue
            if cpu_seconds in on_the_way:
                on_the_way.remove(cpu_seconds)
            else:
                missing.append(cpu_seconds)
        idle_missing = self._idle_wanted - len(self._idle) - len(on_the_way)
        for cpu_seconds in [*missing, *[self._cpu_seconds] * idle_missing]:
            message = FORK if cpu_seconds is None else b"%s %d" % (FORK, cpu_seconds)
            try:
                self._request_child(message)
            except BlockingIOError:
                return  # it is busy; its next message triggers another attempt
            except OSError:
                return  # it is dead; the reader of the socket finds out
            self._requested.append(cpu_seconds)

    def _request_child(self, message: bytes) -> None:
        """Request one child. Raise ``OSError`` if the process is busy or dead."""
        assert self._control is not None  # noqa: S101 - the caller checks
        self._control.send(message)

    def _connect(self, control: socket.socket) -> None:
        """Use the control socket of a new process from now on."""
        control.setblocking(False)
        self._control = control
        self._requested.clear()
        asyncio.get_running_loop().add_reader(control, self._read_packets)
        self._refill()

    def _disconnect(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        for child in list(self._ending):
            self._kill(child)
        for child in self._idle:
            child.close()
        self._idle.clear()

    def _read_packets(self) -> None:
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
            if not self._on_message(packet, descriptors):
                for fd in descriptors:
                    os.close(fd)
                self._on_lost()

    def _on_message(self, packet: bytes, descriptors: list[int]) -> bool:
        """Handle a message. Return False if it is not a valid answer, or the process is dead."""
        word, *numbers = packet.split() or [b""]
        if not all(number.isdigit() for number in numbers):
            return False
        pid, *status = [int(number) for number in numbers] or [0]
        if word == CHILD and self._requested and len(descriptors) == 2:  # noqa: PLR2004
            if pid in self._alive:
                return False
            try:
                link = socket.socket(fileno=descriptors[0])
            except OSError:
                return False
            cpu_seconds = self._requested.popleft()
            self._add(self._new_child(pid, link, descriptors[1], cpu_seconds))
        elif word == EXIT and pid in self._alive and not descriptors and _is_end(status):
            child = self._alive.pop(pid)
            child.ended(status[0], status[1] / 1e6)
            if child in self._ending:
                self._kill(child)
        else:
            return False
        return True

    def _new_child(
        self, pid: int, link: socket.socket, pidfd: int, _cpu_seconds: int | None
    ) -> ChildProcess:
        return ChildProcess(pid, link, pidfd)

    def _on_lost(self) -> None:
        """Give up the process and its children: it died, or it lied."""
        self._disconnect()
        for child in self._alive.values():
            child.kill()
            child.lost()
        self._alive.clear()

    def _add(self, child: ChildProcess) -> None:
        self._alive[child.pid] = child
        for waiter, cpu_seconds in list(self._waiting.items()):
            if waiter.done():
                del self._waiting[waiter]
            elif cpu_seconds == child.cpu_limit_seconds:
                del self._waiting[waiter]
                waiter.set_result(child)
                break
        else:
            if len(self._idle) < self._idle_wanted:
                self._idle.append(child)
            else:
                child.close()  # its job was cancelled, or the limit has changed
        self._refill()


def _is_end(status: list[int]) -> bool:
    """Whether these are the wait status of a process that ended, and its processor time in µs."""
    if len(status) != 2 or status[0] > 0xFFFF or status[1] >= 1 << 63:  # noqa: PLR2004 - wait(2)
        return False
    return os.WIFEXITED(status[0]) or (
        os.WIFSIGNALED(status[0]) and os.WTERMSIG(status[0]) < signal.NSIG
    )
