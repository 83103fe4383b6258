"""The fork server: a small process that has loaded wasmtime, and forks children for any request.

A child takes one request: to compile, to run, or to become a zygote.
"""

import functools
import gc
import os
import signal
import socket
import traceback
from collections.abc import Sequence
from typing import NoReturn

from wasmdrop.sandbox.confinement.confine import PROCESS_BYTES, Confinement
from wasmdrop.sandbox.guest.channel import receive_frame, report
from wasmdrop.sandbox.guest.compiler import compile_module
from wasmdrop.sandbox.guest.component import ComponentRun
from wasmdrop.sandbox.guest.core_module import ModuleRun, run_module
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.guest.fork_loop import ForkLoop
from wasmdrop.sandbox.guest.memory_usage import open_address_map
from wasmdrop.sandbox.guest.native_zygote import execute_zygote, open_executables
from wasmdrop.sandbox.wire import (
    MISSING,
    CompileRequest,
    EngineOptions,
    Invocation,
    Preparation,
    RunRequest,
    ZygoteRequest,
    decode_request,
)
from wasmdrop.system import signals
from wasmdrop.system.job_user import JobUser
from wasmdrop.system.process_title import set_process_title
from wasmdrop.system.processes import use_batch_scheduling


def main(control_fd: int, uid: int, gid: int, jobs: int = 1) -> NoReturn:
    """Serve until the daemon closes the control socket ``control_fd``.

    ``uid`` and ``gid``: the user that children run as, if this process is root. ``jobs``: that may
    run at a time.
    """
    use_batch_scheduling()
    set_process_title("wasmdrop: fork server")
    control = socket.socket(fileno=control_fd)
    signals.ignore_all()
    confinement = Confinement(JobUser(uid, gid), jobs)
    confinement.prepare_fork_server()
    if not confinement.missing and not _can_confine(confinement):
        confinement.missing.append("a confined process that works (see the log)")
    control.send(b"%s %s" % (MISSING, "; ".join(confinement.missing).encode()))
    fork_loop = ForkLoop(control, _Child(Engine(EngineOptions()), confinement, open_executables()))
    # A collection writes to, and so copies, every page that children share with this process.
    gc.collect()
    gc.freeze()
    gc.disable()
    fork_loop.serve()


def _can_confine(confinement: Confinement) -> bool:
    """Whether a child can be confined: a container may forbid what the kernel supports."""
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            confinement.detach_from_fork_server(parent_pid, 0)
            confinement.confine(
                readable=[], cpu_seconds=1, file_bytes=0, data_bytes=PROCESS_BYTES, threads=False
            )
            confinement.confine_after_loading()
        except BaseException:  # noqa: BLE001 - the last frame of a process of its own
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


class _Child:
    """A process that takes one request, reports once, and exits."""

    def __init__(
        self, engine: Engine, confinement: Confinement, executables: Sequence[int]
    ) -> None:
        self._engine = engine
        self._confinement = confinement
        self._executables = executables

    def leave(self, parent_pid: int, link_fd: int) -> int:
        """Leave the fork server behind; see :class:`ForkedRole`."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        set_process_title("wasmdrop: idle child")
        return self._confinement.detach_from_fork_server(parent_pid, link_fd, self._executables)

    def serve(self, link_fd: int) -> NoReturn:
        """Serve one request."""
        header, payload, descriptors = receive_frame(link_fd)
        executables = range(link_fd + 1, link_fd + 1 + len(self._executables))
        request = decode_request(header)
        if isinstance(request, ZygoteRequest):
            execute_zygote(executables, request, self._confinement, link_fd, descriptors)
        os.closerange(executables.start, executables.stop)
        match request:
            case CompileRequest():
                set_process_title("wasmdrop: compiler")
                self._compile(request, link_fd, descriptors)
            case RunRequest(invocation, preparation):
                set_process_title("wasmdrop: job")
                self._run(preparation, invocation, link_fd, payload, descriptors)

    def _engine_for(self, options: EngineOptions) -> Engine:
        return self._engine if options == self._engine.options else Engine(options)

    def _compile(self, request: CompileRequest, link_fd: int, descriptors: list[int]) -> NoReturn:
        engine = self._engine_for(request.options)
        self._confinement.confine(
            readable=[],
            cpu_seconds=request.cpu_seconds,
            file_bytes=request.code_bytes,
            data_bytes=request.memory_bytes,
            threads=False,
        )
        self._confinement.confine_after_loading(compiles=True)
        report(link_fd, compile_module(request, engine, descriptors[0], descriptors[1]))

    def _run(
        self,
        preparation: Preparation,
        invocation: Invocation,
        link_fd: int,
        payload: bytes,
        descriptors: list[int],
    ) -> NoReturn:
        engine, wasi = self._engine_for(preparation.options), invocation.wasi
        address_map = open_address_map() if preparation.has_hidden_memories else None
        disk_bytes = None if wasi is None else wasi.disk_bytes
        if disk_bytes is not None:
            engine.use_deterministic_files(of_component=preparation.is_component)
        self._confinement.confine(
            readable=descriptors[:1],
            directory=None if disk_bytes is None else descriptors[3],
            grants=descriptors[4:],
            cpu_seconds=invocation.cpu_seconds,
            file_bytes=max(preparation.output_bytes, disk_bytes or 0),
            data_bytes=preparation.memory_bytes + PROCESS_BYTES,
            # wasmtime's WASI runs on threads of its own.
            threads=preparation.has_wasi,
        )
        loaded = functools.partial(
            self._confinement.confine_after_loading,
            has_directory=disk_bytes is not None,
            has_grants=wasi is not None and bool(wasi.grants),
        )
        report_now = functools.partial(report, link_fd)
        kind = ComponentRun if preparation.is_component else ModuleRun
        run = kind(preparation, engine, report_now, address_map)
        report_now(run_module(run, invocation, descriptors, payload, loaded))
