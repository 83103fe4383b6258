"""A child process as the daemon sees it: it takes a request, reports, and ends.

The process that forked it may belong to a guest. If so, its word is not enough to kill a process:
:meth:`ChildProcess.kill` then asks the kernel whose child the process is.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from typing import Protocol

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.sandbox.host.captured_output import CapturedOutput
from wasmdrop.sandbox.host.procfs import is_child_of
from wasmdrop.sandbox.native_wire import MAX_NATIVE_REPORT_BYTES
from wasmdrop.sandbox.wire import FRAME


class ChildProcess:
    """A child process and its link.

    ``untrusted_parent``: process ID of the process that forked it, if a guest may own that one.
    ``is_native``: whether it is a child of a native zygote, which has its module loaded already.
    """

    def __init__(
        self,
        pid: int,
        link: socket.socket,
        pidfd: int,
        untrusted_parent: int | None = None,
        *,
        is_native: bool = False,
        cpu_limit_seconds: int | None = None,
        output: CapturedOutput | None = None,
    ) -> None:
        self.pid = pid
        self.is_native = is_native
        self.cpu_limit_seconds = cpu_limit_seconds
        """The limit of processor time that it has from the fork on."""
        self.output = output
        """Its standard output and standard error, if it has them; closed with it."""
        self.exit_status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The wait status, when its parent has reported it."""
        self.cpu_seconds: float | None = None
        """Processor time of the whole process, when its parent has reported it."""
        self.has_reported = False
        """Whether it has sent a complete report."""
        self._link = link
        self._pidfd: int | None = pidfd
        self._untrusted_parent = untrusted_parent
        link.setblocking(False)

    async def send(self, frame: bytes, descriptors: Sequence[int]) -> None:
        """Send one request. Raise ``OSError`` if the child is dead."""
        sent = socket.send_fds(self._link, [frame], descriptors)
        if sent < len(frame):
            await asyncio.get_running_loop().sock_sendall(self._link, frame[sent:])

    async def receive(self, max_bytes: int = MAX_NATIVE_REPORT_BYTES) -> bytes | None:
        """Return the child's report, or None if the child ends without a complete one.

        It is the payload of a native child's frame, else the header, and has at most ``max_bytes``.
        Raise ``SandboxError`` if the child sends anything else.
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
            sizes = FRAME.unpack_from(frame)
            report_bytes, other_bytes = reversed(sizes) if self.is_native else sizes
            if other_bytes != 0 or report_bytes > max_bytes:
                raise SandboxError("a child sent a frame that is not a report")
            end = FRAME.size + report_bytes
            if len(frame) >= end:
                self.has_reported = True
                return bytes(frame[FRAME.size : end])

    def kill(self) -> None:
        """Kill the process, whatever it does."""
        if self._pidfd is None:
            return
        parent = self._untrusted_parent
        if parent is not None:
            # Others may hold its end of the link; the reader would then wait forever.
            with contextlib.suppress(OSError):
                self._link.shutdown(socket.SHUT_RDWR)
            if not is_child_of(self._pidfd, parent):
                return  # it is dead, or the parent gave the pidfd of another process
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Kill the process and close its descriptors. May be called again."""
        if self._pidfd is not None:
            if not self.exit_status.done():
                self.kill()
            self._link.close()
            os.close(self._pidfd)
            self._pidfd = None
            if self.output is not None:
                self.output.close()

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._pidfd is None

    def hang_up(self) -> bool:
        """Close the link, so that the process ends. Return False if it must be killed instead."""
        if self._untrusted_parent is None:
            return False
        # To ask whose child it is takes longer than its end.
        self._link.close()
        return True

    def ended(self, status: int, cpu_seconds: float) -> None:
        """Set the wait status and the processor time of the process."""
        if not self.exit_status.done():
            self.cpu_seconds = cpu_seconds
            self.exit_status.set_result(status)

    def lost(self) -> None:
        """Note that the parent died, so the exit status will not be known."""
        if not self.exit_status.done():
            self.exit_status.set_exception(SandboxError("the process that forks children died"))
            self.exit_status.exception()  # mark it as retrieved: it may have no reader


class ChildSource(Protocol):
    """The pool or process that a child was acquired from."""

    def release(self, child: ChildProcess) -> None:
        """Take the child back when its request is over; kill it if it has not reported."""
