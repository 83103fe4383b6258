"""A template: a confined process that holds one module, ready to be called, and forks.

A module that is called again and again need not be mapped, linked and instantiated again for each
job: a fork of a process that did all this, and ran nothing of the module's, is a fresh instance in
a fresh process, whose pages are copied as they are written to. Only modules without a start
function have templates, as theirs would run here.

The template is confined as a job is, but that it may fork, and its children inherit that; what a
job has beyond, they are given before they look at anything of the guest's.
"""

import socket
from collections.abc import Callable, Sequence
from typing import NoReturn

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.confinement.confine import PROCESS_BYTES, STREAM_FDS, Confinement
from wasmdrop.sandbox.guest.channel import read_frame, receive_frame, report, send
from wasmdrop.sandbox.guest.core_module import ModuleRun, StaleCodeError
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.guest.fork_loop import ForkLoop
from wasmdrop.sandbox.guest.unchecked_call import EmptyWasi, UncheckedCall
from wasmdrop.sandbox.wire import RunReport, ZygoteRequest, decode_invocation

__all__ = ["serve_zygote"]


def serve_zygote(
    order: ZygoteRequest,
    engine: Engine,
    rehearse: Callable[[], None],
    confinement: Confinement,
    link_fd: int,
    descriptors: list[int],
) -> NoReturn:
    """Become a template: report whether there is an instance, then fork children that have it.

    ``rehearse`` makes a plain call of a module of our own.
    """
    code_fd, control_fd = descriptors
    preparation = order.preparation
    role = _Invoked(engine, rehearse, confinement, order)
    # Made before the filter, which knows pipes and handlers as little as a job's.
    forking = ForkLoop(socket.socket(fileno=control_fd), role, ends_children=False)
    confinement.confine_zygote(
        readable=[code_fd],
        file_bytes=preparation.output_bytes,
        data_bytes=preparation.memory_bytes + PROCESS_BYTES,
    )
    try:
        role.make_ready(code_fd)
    except RefusedError as refusal:
        report(link_fd, RunReport(refusal.code, refusal.message))
    except StaleCodeError as error:
        report(link_fd, RunReport(Code.INTERNAL, bounded_text(str(error))))
    send(link_fd, RunReport(Code.OK))
    forking.serve()


class _Invoked:
    """A process that has the template's instance, takes one invocation, reports once, and ends."""

    def __init__(
        self,
        engine: Engine,
        rehearse: Callable[[], None],
        confinement: Confinement,
        order: ZygoteRequest,
    ) -> None:
        self.run = ModuleRun(order.preparation, engine, self._report)
        self._preparation = order.preparation
        self._rehearse = rehearse
        self._confinement = confinement
        self._is_awaited = False
        self._link_fd = -1
        self._plain: UncheckedCall | None = None

    def make_ready(self, code_fd: int) -> None:
        """Make the instance; raises ``RefusedError`` and ``StaleCodeError``."""
        self.run.load(code_fd)
        # As in a job: before anything is done that the machine code has a part in.
        self._confinement.confine_after_loading()
        self.run.link()
        if self._preparation.function is not None:
            world = EmptyWasi(STREAM_FDS) if self._preparation.has_wasi else None
            self._plain = UncheckedCall(self.run, self._preparation.function, world)

    def leave(
        self, parent_pid: int, link_fd: int, streams: Sequence[int], *, is_awaited: bool
    ) -> int:
        """Leave the template behind; see :class:`~wasmdrop.sandbox.guest.fork_loop.ForkedRole`."""
        self._is_awaited = is_awaited
        return self._confinement.detach_from_zygote(parent_pid, link_fd, streams)

    def obey(self, link_fd: int) -> NoReturn:
        """Take one invocation."""
        self._link_fd = link_fd
        if self._plain is not None:
            self._confine()
            if not self._is_awaited:
                # While idle it gets as its own the pages that a call writes to.
                self._rehearse()
            self._plain.obey(link_fd)
        descriptors: list[int] = []
        if self._preparation.has_wasi:
            header, raw, descriptors = receive_frame(link_fd)
            self._confine()
        else:
            # Nothing but bytes will come, so all is given up while there is time for it.
            self._confine()
            header, raw = read_frame(link_fd)
        invocation = decode_invocation(header)

        def set_up_wasi() -> None:
            self.run.set_up_wasi(invocation, descriptors, raw)

        self._report(self.run.execute(invocation, set_up_wasi))

    def _confine(self) -> None:
        self._confinement.confine_zygote_child(
            cpu_seconds=self._preparation.cpu_seconds, threads=self._preparation.has_wasi
        )

    def _report(self, message: RunReport) -> NoReturn:
        report(self._link_fd, message)
