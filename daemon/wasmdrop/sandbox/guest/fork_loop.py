"""ForkLoop: the loop of a warm, single-threaded process that forks children ahead of need.

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
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.guest.channel import send
from wasmdrop.sandbox.wire import FORK, FORK_AT_ONCE, NO_CHILD, PING, SWEEP, RunReport

__all__ = ["ForkLoop", "ForkedRole"]


class ForkedRole(Protocol):
    """What a forked process does."""

    def leave(
        self, parent_pid: int, link_fd: int, streams: Sequence[int], *, is_awaited: bool
    ) -> int:
        """Leave the parent behind; return where the link to the daemon is now.

        ``streams``: descriptors of the job's output, if they came with the request.
        ``is_awaited``: a job waits for it already.
        """

    def obey(self, link_fd: int) -> NoReturn:
        """Take one order."""


class ForkLoop:
    """The loop, over the socket ``control``; ``role`` is that of each process forked.

    ``ends_children``: whether to do so at the end, rather than leave it to their parent's death
    and to whoever reaps them then.
    """

    def __init__(self, control: socket.socket, role: ForkedRole, *, ends_children: bool) -> None:
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
                if control_fd in ready and not self._take_request():
                    break
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon went away while it was being told something
        if self._ends_children:
            self._end_children()
        os._exit(0)

    def _end_children(self) -> None:
        """Kill all below this process, and reap it: in a container there may be no init to do it.

        What one leaves behind when it dies falls to this process, and so in turn to this loop.
        """
        for pid in self._children:
            _kill(pid)
        with contextlib.suppress(ChildProcessError):
            while self._children or self._sweep():
                self._children.discard(os.waitpid(-1, 0)[0])

    def _take_request(self) -> bool:
        request, streams, _flags, _address = socket.recv_fds(self._control, 16, 2)
        try:
            return self._obey(request, streams)
        finally:
            for fd in streams:
                os.close(fd)

    def _obey(self, request: bytes, streams: Sequence[int]) -> bool:
        if request in {FORK, FORK_AT_ONCE}:
            try:
                self._fork(streams, is_awaited=request == FORK_AT_ONCE)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except OSError as error:
                if self._ends_children:
                    raise  # it is begun anew
                # Others have used up what the kernel gives one user; children of ours may run.
                self._control.send(b"%s %d" % (NO_CHILD, error.errno or 0))
        elif request == PING:
            self._control.send(b"pong")
        elif request == SWEEP:
            self._sweep()
        else:
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
                    self._control.send(b"exit %d %d %d" % (pid, status, cpu_us))
                else:
                    was_left_behind = True
        if was_left_behind:
            self._sweep()  # its own children are this process's now

    def _sweep(self) -> bool:
        """Kill what a child left behind when it died; whether there was any.

        Only a template can fork, and it dies after its children or takes them along.
        """
        try:
            pids = Path("/proc/thread-self/children").read_text(encoding="ascii").split()
        except OSError:
            return False  # the kernel keeps no such list
        left_behind = {int(pid) for pid in pids} - self._children
        for pid in left_behind:
            _kill(pid)
        return bool(left_behind)

    def _fork(self, streams: Sequence[int], *, is_awaited: bool) -> None:
        ours, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, childs:
            self._fork_with(ours, childs, streams, is_awaited=is_awaited)

    def _fork_with(
        self,
        ours: socket.socket,
        childs: socket.socket,
        streams: Sequence[int],
        *,
        is_awaited: bool,
    ) -> None:
        parent_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            link_fd = childs.fileno()
            signal.set_wakeup_fd(-1)
            try:
                link_fd = self._role.leave(parent_pid, link_fd, streams, is_awaited=is_awaited)
                self._role.obey(link_fd)
            except Exception:  # noqa: BLE001 - the last frame of a process of its own
                trace = bounded_text(traceback.format_exc())
                send(link_fd, RunReport(Code.INTERNAL, trace))
            finally:
                os._exit(70)
        childs.close()
        self._children.add(pid)
        pidfd = os.pidfd_open(pid)
        try:
            socket.send_fds(self._control, [b"child %d" % pid], [ours.fileno(), pidfd])
        except OSError:
            # Nobody has heard of it; without its link it ends.
            ours.close()
            os.waitpid(pid, 0)
            self._children.discard(pid)
            raise
        finally:
            os.close(pidfd)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
