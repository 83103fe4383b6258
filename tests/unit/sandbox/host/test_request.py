"""Unit tests of one request: when the daemon kills the child of a job with a directory."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Final

import pytest

from wasmdrop.sandbox.host import job_directory
from wasmdrop.sandbox.host.captured_output import CapturedOutput
from wasmdrop.sandbox.host.child_process import ChildProcess
from wasmdrop.sandbox.host.job_directory import JobDirectoryFactory
from wasmdrop.sandbox.host.request import RequestResult, exchange
from wasmdrop.sandbox.wire import FRAME

#: A process ID that the kernel does not give (PID_MAX_LIMIT).
PID: Final = 1 << 22
OUTPUT_BYTES: Final = 10
REPORT: Final = b"report"


class FakeChild(ChildProcess):
    """A child that has written output, and reports when it is told to."""

    def __init__(self, output_bytes: int) -> None:
        ours, self._link_end = socket.socketpair()
        self._pidfd_end, pidfd = os.pipe()
        super().__init__(PID, ours, pidfd, is_native=True, output=CapturedOutput())
        assert self.output is not None
        # Both streams count.
        for fd, size in zip(
            self.output.fds, (OUTPUT_BYTES, output_bytes - OUTPUT_BYTES), strict=True
        ):
            os.write(fd, b"x" * size)

    def report(self) -> None:
        """Report."""
        self._link_end.send(FRAME.pack(0, len(REPORT)) + REPORT)

    def kill(self) -> None:
        """Die."""
        self._link_end.close()
        self.ended(9, 0.0)

    def end(self) -> None:
        """Close all that it has open."""
        self.close()
        self._link_end.close()
        os.close(self._pidfd_end)


async def result_of(
    state: Path, output_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> RequestResult:
    """Return the result of a request whose child reports after several checks of its directory."""
    child = FakeChild(output_bytes)
    checks = 0

    def measure(*_args: object) -> None:
        nonlocal checks
        checks += 1
        if checks == 3:
            child.report()

    monkeypatch.setattr(job_directory, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(job_directory, "measure", measure)
    factory = JobDirectoryFactory(state, for_another_user=False)
    directory = factory.make(1 << 20, "a")
    try:
        return await exchange(
            child, b"request", [], 60.0, 1000, directory=directory, output_bytes=OUTPUT_BYTES
        )
    finally:
        await directory.leave(keep=False)
        child.end()


@pytest.mark.parametrize(("output_bytes", "is_killed"), [(OUTPUT_BYTES, False), (11, True)])
def test_child_of_a_job_with_a_directory_is_killed_for_too_much_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output_bytes: int, *, is_killed: bool
) -> None:
    """The kernel's limit of the size of a file has to allow the files in the directory."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    result = asyncio.run(result_of(state, output_bytes, monkeypatch))
    assert (result.report, result.status) == ((None, 9) if is_killed else (REPORT, None))
