"""The forking server: a small, single-threaded, warm process that forks children ahead of need.

It loads wasmtime once, then waits. The daemon asks for children over a sequenced-packet socket;
for each one the server answers with the process id and two descriptors, a stream socket to the
child and a pidfd. It tells the daemon of every child that ended. When the socket closes, because
the daemon ended however it ended, the server kills its children and ends too.

It assumes that it is the only thread: after a fork only the forking thread lives on, and a lock
that another one held stays locked for ever.
"""

import functools
import gc
import os
import select
import signal
import socket
import traceback
from typing import NoReturn

from wasmdrop.outcome import Code, bounded_text
from wasmdrop.sandbox.compiler import compile_module
from wasmdrop.sandbox.component import ComponentRun
from wasmdrop.sandbox.confine import Confinement
from wasmdrop.sandbox.guest import Run, run_module
from wasmdrop.sandbox.memories import open_address_map
from wasmdrop.sandbox.messages import (
    FORK,
    FORK_AT_ONCE,
    FRAME,
    PING,
    CompileOrder,
    CompileReport,
    EngineOptions,
    RunReport,
    decode_order,
    encode_frame,
)
from wasmdrop.sandbox.runtime import Runtime
from wasmdrop.sandbox.warmup import WarmUp
from wasmdrop.scheduling import wait_for_turn

__all__ = ["main"]

#: Room for the process itself beside the guest's memories: interpreter, engine, a 16 MiB frame
#: and its copies. Generous, as it only has to stop what has no other bound.
_PROCESS_BYTES = 192 * 1024 * 1024

#: Most descriptors that an order brings: code, two streams, a directory, and grants.
_MAX_DESCRIPTORS = 4 + 16


def main(control_fd: int) -> NoReturn:
    """Serve until the daemon closes its end of the socket ``control_fd``."""
    wait_for_turn()
    control = socket.socket(fileno=control_fd)
    # The daemon decides when to stop; a Ctrl-C on its terminal reaches this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    confinement = Confinement()
    confinement.prepare_parent()
    if not confinement.missing and not _can_confine(confinement):
        confinement.missing.append("a confined process that works (see the log)")
    control.send(b"missing " + "; ".join(confinement.missing).encode())
    runtime = Runtime(EngineOptions())
    warm_up = WarmUp(runtime)
    warm_up.repeat()
    server = _Server(control, runtime, warm_up, confinement)
    # Collections would touch, and so copy, every page that children share with this process.
    gc.collect()
    gc.freeze()
    gc.disable()
    server.serve()


def _can_confine(confinement: Confinement) -> bool:
    """Whether a child can really be confined: a container may forbid what the kernel knows."""
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            confinement.leave_parent(parent_pid, 0)
            confinement.enter(
                readable=[], cpu_seconds=1, file_bytes=0, data_bytes=_PROCESS_BYTES, threads=False
            )
            confinement.narrow()
        except BaseException:  # noqa: BLE001 - the last frame of a process of its own
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


class _Server:
    def __init__(
        self,
        control: socket.socket,
        runtime: Runtime,
        warm_up: WarmUp,
        confinement: Confinement,
    ) -> None:
        self.control = control
        self.runtime = runtime
        self.warm_up = warm_up
        self.confinement = confinement
        self.children: set[int] = set()
        self.wake_r, self.wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)

    def serve(self) -> NoReturn:
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.wake_r, select.POLLIN)
        control_fd = self.control.fileno()
        try:
            while True:
                ready = dict(poll.poll())
                if self.wake_r in ready:
                    os.read(self.wake_r, 4096)
                    self._reap()
                if control_fd in ready:
                    request = self.control.recv(16)
                    if request in {FORK, FORK_AT_ONCE}:
                        self._fork(is_awaited=request == FORK_AT_ONCE)
                    elif request == PING:
                        self.control.send(b"pong")
                    else:
                        break
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon went away while it was being told something
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        # Reaped, not left to init: in a container there may be none that does it.
        for pid in self.children:
            os.waitpid(pid, 0)
        os._exit(0)

    def _reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self.children.discard(pid)
            self.control.send(b"exit %d %d" % (pid, status))

    def _fork(self, *, is_awaited: bool) -> None:
        ours, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        parent_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            link_fd = childs.fileno()
            try:
                # While idle the child touches, and so gets as its own, the pages that a job needs.
                # Before it leaves the server's descriptors behind: the module is in one of them.
                if not is_awaited:
                    self.warm_up.once()
                link_fd = self.confinement.leave_parent(parent_pid, link_fd)
                _Child(link_fd, self.runtime, self.confinement).obey()
            except Exception:  # noqa: BLE001 - the last frame of a process of its own
                trace = bounded_text(traceback.format_exc())
                _write(link_fd, encode_frame(RunReport(Code.INTERNAL, trace)))
            finally:
                os._exit(70)
        childs.close()
        self.children.add(pid)
        pidfd = os.pidfd_open(pid)
        socket.send_fds(self.control, [b"child %d" % pid], [ours.fileno(), pidfd])
        os.close(pidfd)
        ours.close()


class _Child:
    """A process that takes one order, reports once, and ends."""

    def __init__(self, link_fd: int, runtime: Runtime, confinement: Confinement) -> None:
        self.link_fd = link_fd
        self.runtime = runtime
        self.confinement = confinement

    def obey(self) -> NoReturn:
        header, raw, descriptors = self._receive()
        order = decode_order(header)
        if order.options != self.runtime.options:
            self.runtime = Runtime(order.options)
        if isinstance(order, CompileOrder):
            self.confinement.enter(
                readable=[],
                cpu_seconds=order.cpu_seconds,
                file_bytes=order.code_bytes,
                data_bytes=order.memory_bytes,
                threads=False,
            )
            self.confinement.narrow(compiles=True)
            self._report(compile_module(order, self.runtime, descriptors[0], descriptors[1]))
        disk_bytes = None if order.wasi is None else order.wasi.disk_bytes
        address_map = open_address_map() if order.has_hidden_memories else None
        self.confinement.enter(
            readable=descriptors[:1],
            directory=None if disk_bytes is None else descriptors[3],
            grants=descriptors[4:],
            cpu_seconds=order.cpu_seconds,
            file_bytes=max(order.output_bytes, disk_bytes or 0),
            data_bytes=order.memory_bytes + _PROCESS_BYTES,
            # wasmtime's WASI runs on threads of its own.
            threads=order.wasi is not None,
        )
        kind = functools.partial(
            ComponentRun if order.component is not None else Run, address_map=address_map
        )
        narrow = functools.partial(
            self.confinement.narrow,
            has_directory=disk_bytes is not None,
            has_grants=len(descriptors) > 4,  # noqa: PLR2004 - see WasiOrder
        )
        self._report(run_module(order, self.runtime, descriptors, raw, narrow, self._report, kind))

    def _report(self, report: CompileReport | RunReport) -> NoReturn:
        # Not by the socket's own calls: the filter knows none of them.
        _write(self.link_fd, encode_frame(report))
        # Ending takes a core for a millisecond that the results need more: the daemon says when.
        os.read(self.link_fd, 1)
        os._exit(0)

    def _receive(self) -> tuple[bytes, bytes, list[int]]:
        link = socket.socket(fileno=self.link_fd)
        data, descriptors, _flags, _address = socket.recv_fds(link, 65536, _MAX_DESCRIPTORS)
        frame = bytearray(data)
        while len(frame) < FRAME.size or len(frame) < _frame_bytes(frame):
            data = link.recv(1 << 20)
            if not data:
                os._exit(0)  # no order came: the daemon has no use for this child any more
            frame += data
        link.detach()
        header_bytes, _raw_bytes = FRAME.unpack_from(frame)
        cut = FRAME.size + header_bytes
        return bytes(frame[FRAME.size : cut]), bytes(frame[cut:]), descriptors


def _frame_bytes(frame: bytearray) -> int:
    header_bytes, raw_bytes = FRAME.unpack_from(frame)
    return FRAME.size + int(header_bytes) + int(raw_bytes)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
