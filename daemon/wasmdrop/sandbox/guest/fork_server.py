"""The forking server: a small, warm process that forks the children that obey any order.

It loads wasmtime once, then waits; :mod:`.forking` has its loop. A child takes one order, to
compile, to run or to become a template (:mod:`.template`), and does nothing else.
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
from wasmdrop.sandbox.guest.reusable_worker import serve_reusable_worker
from wasmdrop.sandbox.guest.warmup import Warmup
from wasmdrop.sandbox.guest.zygote import serve_zygote
from wasmdrop.sandbox.wire import (
    CompileRequest,
    EngineOptions,
    ReusableWorkerRequest,
    RunReport,
    RunRequest,
    ZygoteRequest,
    decode_request,
)
from wasmdrop.system import signals
from wasmdrop.system.job_user import JobUser
from wasmdrop.system.processes import use_batch_scheduling

__all__ = ["main"]


def main(control_fd: int, uid: int, gid: int) -> NoReturn:
    """Serve until the daemon closes its end of the socket ``control_fd``.

    ``uid`` and ``gid`` are whom children run as, if this process is root.
    """
    use_batch_scheduling()
    control = socket.socket(fileno=control_fd)
    signals.ignore_all()
    confinement = Confinement(JobUser(uid, gid))
    confinement.prepare_fork_server()
    if not confinement.missing and not _can_confine(confinement):
        confinement.missing.append("a confined process that works (see the log)")
    control.send(b"missing " + "; ".join(confinement.missing).encode())
    engine = Engine(EngineOptions())
    warm_up = Warmup(engine)
    warm_up.repeat()
    forking = ForkLoop(control, _AnyOrder(engine, warm_up, confinement), ends_children=True)
    # Collections would touch, and so copy, every page that children share with this process.
    gc.collect()
    gc.freeze()
    gc.disable()
    forking.serve()


def _can_confine(confinement: Confinement) -> bool:
    """Whether a child can really be confined: a container may forbid what the kernel knows."""
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


class _AnyOrder:
    """A process that takes one order of any kind, reports once, and ends."""

    def __init__(self, engine: Engine, warm_up: Warmup, confinement: Confinement) -> None:
        self._engine = engine
        self._warm_up = warm_up
        self._confinement = confinement

    def leave(
        self, parent_pid: int, link_fd: int, _streams: Sequence[int], *, is_awaited: bool
    ) -> int:
        """Leave the fork server behind; see :class:`ForkedRole`."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # While idle the child touches, and so gets as its own, the pages that a job needs.
        # Before it leaves the server's descriptors behind: the module is in one of them.
        if not is_awaited:
            self._warm_up.once()
        return self._confinement.detach_from_fork_server(parent_pid, link_fd)

    def obey(self, link_fd: int) -> NoReturn:
        """Take one order."""
        header, raw, descriptors = receive_frame(link_fd)
        order = decode_request(header)
        if order.options != self._engine.options:
            self._engine = Engine(order.options)
        match order:
            case CompileRequest():
                self._compile(order, link_fd, descriptors)
            case ZygoteRequest():
                serve_zygote(
                    order,
                    self._engine,
                    self._warm_up.call,
                    self._confinement,
                    link_fd,
                    descriptors,
                )
            case ReusableWorkerRequest():
                serve_reusable_worker(order, self._engine, self._confinement, link_fd, descriptors)
            case RunRequest():
                self._run(order, link_fd, raw, descriptors)

    def _compile(self, order: CompileRequest, link_fd: int, descriptors: list[int]) -> NoReturn:
        self._confinement.confine(
            readable=[],
            cpu_seconds=order.cpu_seconds,
            file_bytes=order.code_bytes,
            data_bytes=order.memory_bytes,
            threads=False,
        )
        self._confinement.confine_after_loading(compiles=True)
        report(link_fd, compile_module(order, self._engine, descriptors[0], descriptors[1]))

    def _run(self, order: RunRequest, link_fd: int, raw: bytes, descriptors: list[int]) -> NoReturn:
        preparation, wasi = order.preparation, order.invocation.wasi
        kind = functools.partial(
            ComponentRun if preparation.is_component else ModuleRun,
            address_map=open_address_map() if preparation.has_hidden_memories else None,
        )
        disk_bytes = None if wasi is None else wasi.disk_bytes
        if disk_bytes is not None:
            self._engine.use_deterministic_files(of_component=preparation.is_component)
        self._confinement.confine(
            readable=descriptors[:1],
            directory=None if disk_bytes is None else descriptors[3],
            grants=descriptors[4:],
            cpu_seconds=preparation.cpu_seconds,
            file_bytes=max(preparation.output_bytes, disk_bytes or 0),
            data_bytes=preparation.memory_bytes + PROCESS_BYTES,
            # wasmtime's WASI runs on threads of its own.
            threads=preparation.has_wasi,
        )
        loaded = functools.partial(
            self._confinement.confine_after_loading,
            has_directory=disk_bytes is not None,
            has_grants=len(descriptors) > 4,  # noqa: PLR2004 - see WasiContext
        )

        def report_now(message: RunReport) -> NoReturn:
            report(link_fd, message)

        report_now(run_module(order, self._engine, descriptors, raw, loaded, report_now, kind))
