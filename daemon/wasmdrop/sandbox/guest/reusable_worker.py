"""The reusable worker: a process that serves many jobs of one module, each in a fresh instance.

For modules that the operator trusts (``WASMDROP_ISOLATION=instance``): only wasmtime separates the
jobs. The process is confined like a job, but without a limit of processor time, which the kernel
counts by process; only the daemon's timeout ends a job.
"""

import gc
import os
from typing import NoReturn

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.confinement.confine import PROCESS_BYTES, Confinement
from wasmdrop.sandbox.guest.channel import read_binary_call, read_frame, report, send
from wasmdrop.sandbox.guest.core_module import ModuleRun, StaleCodeError
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.guest.unchecked_call import EmptyWasi, UncheckedCall
from wasmdrop.sandbox.wire import (
    BoundFunction,
    ReusableWorkerRequest,
    RunReport,
    RunRequest,
    decode_request,
)


class _EndedError(Exception):
    """The guest asked to end in the middle of a host call."""

    def __init__(self, message: RunReport) -> None:
        super().__init__()
        self.message = message


def serve_reusable_worker(
    request: ReusableWorkerRequest,
    engine: Engine,
    confinement: Confinement,
    link_fd: int,
    descriptors: list[int],
) -> NoReturn:
    """Become a reusable worker: load the module, report that, then serve requests."""
    code_fd, *streams = descriptors
    preparation = request.preparation
    # The fork server disables it, because its children end before they need it.
    gc.enable()

    def end(message: RunReport) -> NoReturn:
        if message.code is Code.OUTPUT_LIMIT:
            # No exception passes through the function that takes output.
            send(link_fd, message)
            os.close(link_fd)  # first, so that no other request is sent
            os._exit(0)
        raise _EndedError(message)

    loaded = ModuleRun(preparation, engine, end)
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
    wasi = EmptyWasi(streams) if preparation.has_wasi else None
    while True:
        for fd in streams:
            os.lseek(fd, 0, os.SEEK_SET)  # the daemon has emptied it
        if preparation.function is None:
            _serve_call(loaded, link_fd, streams)
        else:
            _serve_unchecked_call(loaded, preparation.function, wasi, link_fd)


def _serve_unchecked_call(
    loaded: ModuleRun, function: BoundFunction, wasi: EmptyWasi | None, link_fd: int
) -> None:
    """Serve a request in binary form; the instance is created before it comes."""
    run = loaded.with_fresh_store()
    try:
        run.link()
        call = UncheckedCall(run, function, wasi)
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


def _serve_call(loaded: ModuleRun, link_fd: int, streams: list[int]) -> None:
    """Serve a request in JSON form."""
    run = loaded.with_fresh_store()
    header, payload = read_frame(link_fd)
    request = decode_request(header)
    assert isinstance(request, RunRequest)  # noqa: S101 - nothing else is sent to it
    invocation = request.invocation

    def make_ready() -> None:
        run.set_up_wasi(invocation, streams, payload)
        run.link()

    try:
        message = run.execute(invocation, make_ready)
    except _EndedError as ended:
        message = ended.message
    send(link_fd, message)
    run.close()
