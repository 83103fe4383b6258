"""Forking: the loop of a warm, single-threaded process that forks children ahead of need.

The daemon asks for children over a sequenced-packet socket; for each one the process answers with
its id and two descriptors, a stream socket to the child and a pidfd. It tells the daemon of every
child that ended. When the socket closes, because the daemon ended however it ended, it kills its
children and ends too.

It assumes that it is the only thread: after a fork only the forking thread lives on, and a lock
that another one held stays locked for ever.
"""

import contextlib
import os
import select
import signal
import socket
import traceback
from pathlib import Path
from typing import NoReturn, Protocol

from wasmdrop.outcome import Code, bounded_text
from wasmdrop.sandbox.link import send
from wasmdrop.sandbox.messages import FORK, FORK_AT_ONCE, PING, SWEEP, RunReport

__all__ = ["Forking", "Role"]


class Role(Protocol):
    """What a forked process does."""

    def leave(self, parent_pid: int, link_fd: int, *, is_awaited: bool) -> int:
        """Leave the parent behind; return where the link to the daemon is now.

        ``is_awaited``: a job waits for it already.
        """

    def obey(self, link_fd: int) -> NoReturn:
        """Take one order."""


class Forking:
    """The loop, over the socket ``control``; ``role`` is that of each process forked.

    ``ends_children``: whether to do so at the end, rather than leave it to their parent's death
    and to whoever reaps them then.
    """

    def __init__(self, control: socket.socket, role: Role, *, ends_children: bool) -> None:
        self._control = control
        self._role = role
        self._ends_children = ends_children
        self._children: set[int] = set()
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)

    def serve(self) -> NoReturn:
        """Serve until the daemon closes its end."""
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
                if control_fd in ready and not self._obey(self._control.recv(16)):
                    break
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon went away while it was being told something
        if self._ends_children:
            for pid in self._children:
                _kill(pid)
            # Reaped, not left to init: in a container there may be none that does it.
            for pid in self._children:
                os.waitpid(pid, 0)
            self._sweep()
        os._exit(0)

    def _obey(self, request: bytes) -> bool:
        if request in {FORK, FORK_AT_ONCE}:
            self._fork(is_awaited=request == FORK_AT_ONCE)
        elif request == PING:
            self._control.send(b"pong")
        elif request == SWEEP:
            self._sweep()
        else:
            return False
        return True

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid in self._children:  # and not what a child left behind
                    self._children.discard(pid)
                    self._control.send(b"exit %d %d" % (pid, status))

    def _sweep(self) -> None:
        """Kill what a child left behind when it died: only a template can fork, and dies last."""
        try:
            pids = Path("/proc/thread-self/children").read_text(encoding="ascii").split()
        except OSError:
            return  # the kernel keeps no such list
        for pid in {int(pid) for pid in pids} - self._children:
            _kill(pid)

    def _fork(self, *, is_awaited: bool) -> None:
        ours, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        parent_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            link_fd = childs.fileno()
            signal.set_wakeup_fd(-1)
            try:
                link_fd = self._role.leave(parent_pid, link_fd, is_awaited=is_awaited)
                self._role.obey(link_fd)
            except Exception:  # noqa: BLE001 - the last frame of a process of its own
                trace = bounded_text(traceback.format_exc())
                send(link_fd, RunReport(Code.INTERNAL, trace))
            finally:
                os._exit(70)
        childs.close()
        self._children.add(pid)
        pidfd = os.pidfd_open(pid)
        socket.send_fds(self._control, [b"child %d" % pid], [ours.fileno(), pidfd])
        os.close(pidfd)
        ours.close()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
