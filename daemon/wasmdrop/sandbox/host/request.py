"""One request to a child, and its result: the child's report, or the way the child died."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.sandbox.host.child_process import ChildProcess
from wasmdrop.sandbox.host.job_directory import JobDirectory
from wasmdrop.system.awake_wait import wait_awake

#: Time for the wait status of a dead child to arrive, in seconds.
_STATUS_SECONDS: Final = 5.0


class RequestResult(msgspec.Struct, frozen=True):
    """The result of a request."""

    report: bytes | None
    """None if the child died first."""
    seconds: float
    """From the request to the report."""
    status: int | None
    """If the child died first: its wait status, or None if it was killed at its timeout."""
    cpu_seconds: float | None
    """Processor time of the child, if it died and the time is known."""


async def exchange(
    child: ChildProcess,
    frame: bytes,
    descriptors: Sequence[int],
    timeout_seconds: float,
    max_report_bytes: int,
    *,
    awaits_end: bool = False,
    directory: JobDirectory | None = None,
    output_bytes: int = 0,
) -> RequestResult:
    """Send one request to a child and return its result.

    ``output_bytes``: limit of its standard output and standard error together, which this checks
    at intervals if the job has a ``directory``.

    With ``awaits_end``, or if ``directory`` is not empty, the child is dead on return, so it no
    longer writes anywhere.
    Raise ``SandboxError`` if the child cannot be reached.
    """
    report: bytes | None = None
    timed_out = False

    def has_surplus() -> bool:
        return child.output is not None and child.output.size_bytes() > output_bytes

    def on_timeout() -> None:
        nonlocal timed_out
        timed_out = True
        child.kill()

    started = time.perf_counter()
    timer = asyncio.get_running_loop().call_later(timeout_seconds, on_timeout)
    guard = None
    if directory is not None:
        guard = asyncio.create_task(directory.guard(child.kill, has_surplus))
    try:
        await child.send(frame, descriptors)
        report = await child.receive(max_report_bytes)
        seconds = time.perf_counter() - started
        is_used = directory is not None and not directory.is_empty()
        status: int | None = None
        if awaits_end or is_used or report is None:
            try:
                status = await _wait_status(child)
            except SandboxError:
                # It was killed all the same; only its processor time remains unknown.
                if awaits_end or is_used or not timed_out:
                    raise
    except OSError as error:
        raise SandboxError(f"a child could not be reached: {error}") from error
    else:
        return RequestResult(report, seconds, None if timed_out else status, child.cpu_seconds)
    finally:
        timer.cancel()
        if guard is not None:
            guard.cancel()


async def _wait_status(child: ChildProcess) -> int:
    """Return the wait status of a child whose link has closed."""
    child.kill()  # it may have closed the link and lived on
    if not await wait_awake(child.exit_status, _STATUS_SECONDS):
        raise SandboxError("a killed child did not end")
    return child.exit_status.result()
