"""The fork loop: serves the control socket of the fork server, which forks children ahead of need.

When the control socket closes, because the daemon ended in whatever way, the process ends too, and
its children with it.

Assumes that the process has a single thread: after a fork only the forking thread exists, and a
lock that another thread held would stay locked forever.
"""

import contextlib
import os
import select
import signal
import socket
import traceback
from pathlib import Path
from typing import Final, NoReturn, Protocol

from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox import wire
from wasmdrop.sandbox.guest.channel import send

#: Largest message of the daemon: a word.
_MESSAGE_BYTES: Final = 64


class ForkedRole(Protocol):
    """The behaviour of a forked child."""

    def leave(self, parent_pid: int, link_fd: int) -> int:
        """Leave the parent behind; return the new descriptor of the link."""

    def serve(self, link_fd: int) -> NoReturn:
        """Serve one request."""


class ForkLoop:
    """The loop, over the socket ``control``; ``role`` is that of each child."""

    def __init__(self, control: socket.socket, role: ForkedRole) -> None:
        self._control = control
        self._role = role
        self._children: set[int] = set()
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)

    def serve(self) -> NoReturn:
        """Serve until the daemon closes the socket."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        control_fd = self._control.fileno()
        try:
            while True:
                ready = dict(poll.poll())
                if self._wake_r in ready:
                    os.read(self._wake_r, 4096)
                    self._reap()
                if control_fd in ready and not self._receive():
                    break
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon ended while this process was sending a message
        self._kill_children()
        os._exit(0)

    def _kill_children(self) -> None:
        """Kill and reap all descendants: a container may have no init process that reaps them.

        The children of a child that dies become children of this process, and are killed in turn.
        """
        for pid in self._children:
            _kill(pid)
        with contextlib.suppress(ChildProcessError):
            while self._children or self._sweep():
                self._children.discard(os.waitpid(-1, 0)[0])

    def _receive(self) -> bool:
        """Handle one message; return False if it is the last one."""
        match self._control.recv(_MESSAGE_BYTES):
            case wire.FORK:
                self._fork()
            case wire.PING:
                self._control.send(wire.PONG)
            case wire.SWEEP:
                self._sweep()
            case _:
                return False
        return True

    def _reap(self) -> None:
        was_left_behind = False
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid in self._children:
                    self._children.discard(pid)
                    cpu_us = (usage.ru_utime + usage.ru_stime) * 1e6
                    self._control.send(b"%s %d %d %d" % (wire.EXIT, pid, status, cpu_us))
                else:
                    was_left_behind = True
        if was_left_behind:
            self._sweep()  # its children are now children of this process

    def _sweep(self) -> bool:
        """Kill the processes that dead children left behind. Return whether there were any.

        Only zygotes can fork; their own children die with them.
        """
        try:
            pids = Path("/proc/thread-self/children").read_text(encoding="ascii").split()
        except OSError:
            return False  # this kernel has no such list
        left_behind = {int(pid) for pid in pids} - self._children
        for pid in left_behind:
            _kill(pid)
        return bool(left_behind)

    def _fork(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            parent_pid = os.getpid()
            pid = os.fork()
            if pid == 0:
                self._run_child(parent_pid, theirs.fileno())
            theirs.close()
            self._children.add(pid)
            pidfd = os.pidfd_open(pid)
            try:
                socket.send_fds(
                    self._control, [b"%s %d" % (wire.CHILD, pid)], [ours.fileno(), pidfd]
                )
            except OSError:
                # The daemon does not know it; without its link it exits.
                ours.close()
                os.waitpid(pid, 0)
                self._children.discard(pid)
                raise
            finally:
                os.close(pidfd)

    def _run_child(self, parent_pid: int, link_fd: int) -> NoReturn:
        signal.set_wakeup_fd(-1)
        try:
            link_fd = self._role.leave(parent_pid, link_fd)
            self._role.serve(link_fd)
        except Exception:  # noqa: BLE001 - the last frame of a process of its own
            trace = bounded_text(traceback.format_exc())
            send(link_fd, wire.RunReport(Code.INTERNAL, trace))
        finally:
            os._exit(70)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
