"""The zygote: a confined process that has prepared one module, and forks a child for each job.

A child of a zygote does not map, link and instantiate the module again: it is a fresh process with
a fresh instance, whose pages are copied when they are written. A module with a start function has
no zygote, because its code would run here.

A zygote is confined like a job, except that it may fork. Its children inherit its confinement, and
add the rest before they look at anything of the guest's.
"""

import socket
from collections.abc import Callable
from typing import NoReturn

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.confinement.confine import PROCESS_BYTES, STREAM_FDS, Confinement
from wasmdrop.sandbox.guest.channel import read_frame, receive_frame, report, send
from wasmdrop.sandbox.guest.core_module import ModuleRun, StaleCodeError
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.guest.fork_loop import ForkLoop, ForkRequest
from wasmdrop.sandbox.guest.unchecked_call import EmptyWasi, UncheckedCall
from wasmdrop.sandbox.wire import RunReport, RunRequest, ZygoteRequest, decode_request


def serve_zygote(
    request: ZygoteRequest,
    engine: Engine,
    warm_up: Callable[[], None],
    confinement: Confinement,
    link_fd: int,
    descriptors: list[int],
) -> NoReturn:
    """Become a zygote: prepare the module, report that, then fork children.

    ``warm_up`` makes an unchecked call of a module of our own.
    """
    code_fd, control_fd = descriptors
    preparation = request.preparation
    role = _ZygoteChild(engine, warm_up, confinement, request)
    # Created before the filter, which allows no pipes and signal handlers.
    fork_loop = ForkLoop(socket.socket(fileno=control_fd), role, kills_children=False)
    confinement.confine_zygote(
        readable=[code_fd],
        file_bytes=preparation.output_bytes,
        data_bytes=preparation.memory_bytes + PROCESS_BYTES,
    )
    try:
        role.prepare(code_fd)
    except RefusedError as refusal:
        report(link_fd, RunReport(refusal.code, refusal.message))
    except StaleCodeError as error:
        report(link_fd, RunReport(Code.INTERNAL, bounded_text(str(error))))
    send(link_fd, RunReport(Code.OK))
    fork_loop.serve()


class _ZygoteChild:
    """A process that has the zygote's instance, takes one request, reports once, and exits."""

    def __init__(
        self,
        engine: Engine,
        warm_up: Callable[[], None],
        confinement: Confinement,
        request: ZygoteRequest,
    ) -> None:
        self._run = ModuleRun(request.preparation, engine, self._report)
        self._preparation = request.preparation
        self._warm_up = warm_up
        self._confinement = confinement
        self._is_awaited = False
        self._cpu_seconds: int | None = None
        self._link_fd = -1
        self._unchecked: UncheckedCall | None = None

    def prepare(self, code_fd: int) -> None:
        """Create the instance. Raise ``RefusedError`` or ``StaleCodeError`` if that fails."""
        self._run.load(code_fd)
        # As in a job: before anything that the machine code takes part in.
        self._confinement.confine_after_loading()
        self._run.link()
        if self._preparation.function is not None:
            wasi = EmptyWasi(STREAM_FDS) if self._preparation.has_wasi else None
            self._unchecked = UncheckedCall(self._run, self._preparation.function, wasi)

    def leave(self, parent_pid: int, link_fd: int, request: ForkRequest) -> int:
        """Leave the zygote behind; see :class:`ForkedRole`."""
        self._is_awaited, self._cpu_seconds = request.is_awaited, request.cpu_seconds
        return self._confinement.detach_from_zygote(parent_pid, link_fd, request.streams)

    def serve(self, link_fd: int) -> NoReturn:
        """Serve one request."""
        self._link_fd = link_fd
        if self._unchecked is not None:
            self._confine()
            if not self._is_awaited:
                # While idle it copies the pages that a call writes to.
                self._warm_up()
            self._unchecked.serve(link_fd)
        descriptors: list[int] = []
        if self._preparation.has_wasi:
            header, payload, descriptors = receive_frame(link_fd)
            self._confine()
        else:
            # Its request has no descriptors, so it is confined while there is time.
            self._confine()
            header, payload = read_frame(link_fd)
        request = decode_request(header)
        assert isinstance(request, RunRequest)  # noqa: S101 - nothing else is sent to it
        invocation = request.invocation

        def set_up_wasi() -> None:
            self._run.set_up_wasi(invocation, descriptors, payload)

        self._report(self._run.execute(invocation, set_up_wasi))

    def _confine(self) -> None:
        assert self._cpu_seconds is not None  # noqa: S101 - a zygote's child always has a limit
        self._confinement.confine_zygote_child(
            cpu_seconds=self._cpu_seconds, threads=self._preparation.has_wasi
        )

    def _report(self, message: RunReport) -> NoReturn:
        report(self._link_fd, message)
