"""One order to a fresh child, and what comes back: its report, or the way it died."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from wasmdrop.errors import SandboxError
from wasmdrop.sandbox.directory import JobDirectory
from wasmdrop.sandbox.pool import Child, ChildPool

__all__ = ["Answer", "exchange"]

#: How long a dead child's wait status may take to arrive, in seconds.
_STATUS_SECONDS: Final = 5.0


class Answer(msgspec.Struct, frozen=True):
    """What came of an order."""

    header: bytes | None
    """The report's; None where the child died first."""
    seconds: float
    """From order to report."""
    status: int | None
    """Where the child died first: its wait status, or None where it was killed at its timeout."""


async def exchange(
    pool: ChildPool,
    frame: bytes,
    descriptors: Sequence[int],
    timeout_seconds: float,
    max_report_bytes: int,
    *,
    to_its_end: bool = False,
    directory: JobDirectory | None = None,
) -> Answer:
    """Give one order to a fresh child of ``pool`` and return its answer.

    With ``to_its_end``, or with a ``directory`` that holds anything, the child is dead on return,
    and so writes nowhere any more. Raises ``SandboxError`` where it can't be reached.
    """
    child = await pool.take()
    header: bytes | None = None
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
        header = await child.receive(max_report_bytes)
        seconds = time.perf_counter() - started
        is_left = directory is not None and not directory.is_empty()
        status: int | None = None
        if to_its_end or is_left or (header is None and not timed_out):
            status = await _status(child)
    except OSError as error:
        raise SandboxError(f"a child could not be reached: {error}") from error
    else:
        return Answer(header, seconds, None if timed_out else status)
    finally:
        timer.cancel()
        if guard is not None:
            guard.cancel()
        if header is None:
            child.close()
        else:
            pool.close_soon(child)


async def _status(child: Child) -> int:
    """Return the wait status of a child whose socket has closed."""
    child.kill()  # it may have closed the socket and lived on
    try:
        async with asyncio.timeout(_STATUS_SECONDS):
            return await child.exit_status
    except TimeoutError:
        raise SandboxError("a killed child did not end") from None
