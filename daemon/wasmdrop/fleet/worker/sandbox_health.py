"""Decide whether the sandbox works, after a job failed in it.

A worker with a broken sandbox would return jobs faster than others can run them. So it takes none
until its sandbox works again, and ends if that takes long.
"""

import asyncio
from typing import Final, Protocol

import structlog

_log = structlog.get_logger()

#: Pauses between checks of a broken sandbox, in seconds.
_PAUSES_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


class Check(Protocol):
    """Tries the sandbox."""

    async def problem(self) -> str:
        """Return why the sandbox does not work; empty if it does."""


class SandboxHealth:
    """The health of a sandbox. ``pauses_seconds``: between checks after it failed."""

    def __init__(self, check: Check, pauses_seconds: tuple[float, ...] = _PAUSES_SECONDS) -> None:
        self.problem = ""
        """Why no job is taken."""
        self.failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done, with the reason, if the sandbox did not recover."""
        self._check = check
        self._pauses_seconds = pauses_seconds
        self._recovery: asyncio.Task[None] | None = None

    async def judge(self) -> str:
        """Return why the sandbox does not work; empty if it does."""
        problem = await self._check.problem()
        if problem and not self.problem:
            self.problem = problem
            _log.error("sandbox-failed", reason=problem)
            self._recovery = asyncio.create_task(self._recover())
        return problem

    def close(self) -> None:
        """Stop checking."""
        if self._recovery is not None:
            self._recovery.cancel()

    async def _recover(self) -> None:
        for pause_seconds in self._pauses_seconds:
            await asyncio.sleep(pause_seconds)
            if not await self._check.problem():
                self.problem = ""
                _log.info("sandbox-recovered")
                return
        if not self.failure.done():
            self.failure.set_result(self.problem)
