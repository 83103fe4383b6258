"""A resident: a process that serves many jobs of one module, each with an instance of its own.

For modules that the operator trusts (``WASMDROP_ISOLATION=instance``): what keeps one job from the
next is then wasmtime alone. The process is confined as any job's; its time limit is the daemon's
kill alone, as processor time is counted by process.
"""

import gc
import os
from typing import NoReturn

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.confinement.confine import PROCESS_BYTES, Confinement
from wasmdrop.sandbox.guest.channel import read_binary_call, read_frame, report, send
from wasmdrop.sandbox.guest.component import ComponentRun
from wasmdrop.sandbox.guest.core_module import ModuleRun, StaleCodeError
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.guest.unchecked_call import EmptyWasi, UncheckedCall
from wasmdrop.sandbox.wire import BoundFunction, ReusableWorkerRequest, RunReport, decode_invocation

__all__ = ["serve_reusable_worker"]


class _EndedError(Exception):
    """The guest has asked to end in the middle of a host call."""

    def __init__(self, message: RunReport) -> None:
        super().__init__()
        self.message = message


def serve_reusable_worker(
    order: ReusableWorkerRequest,
    engine: Engine,
    confinement: Confinement,
    link_fd: int,
    descriptors: list[int],
) -> NoReturn:
    """Become a resident: report whether the module could be loaded, then serve."""
    code_fd, *streams = descriptors
    preparation = order.preparation
    # The forking server does without, and ends its children before they would need it.
    gc.enable()

    def end(message: RunReport) -> NoReturn:
        if message.code is Code.OUTPUT_LIMIT:
            # No exception comes through the function that takes output.
            send(link_fd, message)
            os.close(link_fd)  # first, so that no other order is given
            os._exit(0)
        raise _EndedError(message)

    kind = ComponentRun if preparation.is_component else ModuleRun
    loaded = kind(preparation, engine, end)
    confinement.confine(
        readable=[code_fd],
        cpu_seconds=None,
        file_bytes=preparation.output_bytes,
        data_bytes=preparation.memory_bytes + PROCESS_BYTES,
        threads=preparation.has_wasi,
    )
    try:
        loaded.load(code_fd)
    except StaleCodeError as error:
        report(link_fd, RunReport(Code.INTERNAL, bounded_text(str(error)), stale_code=True))
    confinement.confine_after_loading()
    send(link_fd, RunReport(Code.OK))
    world = EmptyWasi(streams) if preparation.has_wasi else None
    while True:
        for fd in streams:
            os.lseek(fd, 0, os.SEEK_SET)  # the daemon has emptied it
        if preparation.function is None:
            _serve_any(loaded, link_fd, streams)
        else:
            _serve_plain(loaded, preparation.function, world, link_fd)


def _serve_plain(
    loaded: ModuleRun, function: BoundFunction, world: EmptyWasi | None, link_fd: int
) -> None:
    """Serve one call of a plain function; its instance is there before the order is."""
    run = loaded.with_fresh_store()
    try:
        run.link()
        call = UncheckedCall(run, function, world)
    except RefusedError as refusal:
        call = None
        message = RunReport(refusal.code, refusal.message)
    args = read_binary_call(link_fd, len(function.signature.params))
    try:
        answer = message if call is None else call.execute(args)
    except _EndedError as ended:
        answer = ended.message
    if isinstance(answer, RunReport):
        send(link_fd, answer)
    else:
        os.writev(link_fd, answer)
    run.close()


def _serve_any(loaded: ModuleRun, link_fd: int, streams: list[int]) -> None:
    """Serve one invocation."""
    run = loaded.with_fresh_store()
    header, raw = read_frame(link_fd)
    invocation = decode_invocation(header)

    def make_ready() -> None:
        run.set_up_wasi(invocation, streams, raw)
        run.link()

    try:
        message = run.execute(invocation, make_ready)
    except _EndedError as ended:
        message = ended.message
    send(link_fd, message)
    run.close()
