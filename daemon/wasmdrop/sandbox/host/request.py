"""One order to a fresh child, and what comes back: its report, or the way it died."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.sandbox.host.child_process import ChildProcess
from wasmdrop.sandbox.host.job_directory import JobDirectory

__all__ = ["ChildSource", "RequestResult", "exchange"]

#: How long a dead child's wait status may take to arrive, in seconds.
_STATUS_SECONDS: Final = 5.0


class ChildSource(Protocol):
    """Where a child comes from that takes the order."""

    async def take(self) -> ChildProcess:
        """Return a child that waits for an order."""

    def close_soon(self, child: ChildProcess) -> None:
        """Take a child back that has reported."""


class RequestResult(msgspec.Struct, frozen=True):
    """What came of an order."""

    report: bytes | None
    """None where the child died first."""
    is_binary: bool
    """Whether it is that of a plain function."""
    seconds: float
    """From order to report."""
    status: int | None
    """Where the child died first: its wait status, or None where it was killed at its timeout."""
    cpu_seconds: float | None
    """The processor time of the child that died first, if that is known."""


async def exchange(
    source: ChildSource,
    frame: bytes,
    descriptors: Sequence[int],
    timeout_seconds: float,
    max_report_bytes: int,
    *,
    binary_bytes: int = -1,
    to_its_end: bool = False,
    directory: JobDirectory | None = None,
) -> RequestResult:
    """Give one order to a child of ``source`` and return its answer.

    ``binary_bytes`` is the size of a plain function's report. With ``to_its_end``, or with a
    ``directory`` that holds anything, the child is dead on return, and so writes nowhere any more.
    Raises ``SandboxError`` where it can't be reached.
    """
    child = await source.take()
    received: tuple[bytes, bool] | None = None
    timed_out = False

    def on_timeout() -> None:
        nonlocal timed_out
        timed_out = True
        child.kill()

    started = time.perf_counter()
    timer = asyncio.get_running_loop().call_later(timeout_seconds, on_timeout)
    guard = None if directory is None else asyncio.create_task(directory.guard(child.kill))
    try:
        await child.send(frame, list(descriptors))
        received = await child.receive(max_report_bytes, binary_bytes)
        seconds = time.perf_counter() - started
        is_left = directory is not None and not directory.is_empty()
        status: int | None = None
        if to_its_end or is_left or received is None:
            try:
                status = await _status(child)
            except SandboxError:
                # It was killed all the same. What it has of the processor is not known then.
                if to_its_end or is_left or not timed_out:
                    raise
    except OSError as error:
        raise SandboxError(f"a child could not be reached: {error}") from error
    else:
        report, is_binary = received or (None, False)
        return RequestResult(
            report, is_binary, seconds, None if timed_out else status, child.cpu_seconds
        )
    finally:
        timer.cancel()
        if guard is not None:
            guard.cancel()
        if received is None:
            child.close()
        else:
            source.close_soon(child)


async def _status(child: ChildProcess) -> int:
    """Return the wait status of a child whose socket has closed."""
    child.kill()  # it may have closed the socket and lived on
    try:
        async with asyncio.timeout(_STATUS_SECONDS):
            return await child.exit_status
    except TimeoutError:
        raise SandboxError("a killed child did not end") from None
