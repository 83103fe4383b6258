"""Calls that may hang, in child processes."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.daemon import DEADLINE_SECONDS, drop, wait_until
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.system.bounded_calls import BoundedCall, NoAnswerError


def test_call_returns_the_result_or_raises_the_exception() -> None:
    """Also a result that is larger than a pipe holds."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    assert BoundedCall(lambda: [Path("x"), "a" * 1_000_000]).result(deadline) == [
        Path("x"),
        "a" * 1_000_000,
    ]

    def fail() -> None:
        raise SettingsError("one line")

    with pytest.raises(SettingsError, match="one line"):
        BoundedCall(fail).result(deadline)


def test_call_that_hangs_or_dies_has_no_answer(tmp_path: Path) -> None:
    """It is killed; calls beside it are not."""

    def hang() -> None:
        drop(tmp_path / "pid", str(os.getpid()))
        signal.pause()

    deadline = time.monotonic() + DEADLINE_SECONDS
    hanging, other = BoundedCall(hang), BoundedCall(lambda: 12)
    wait_until((tmp_path / "pid").is_file, "the child")
    with pytest.raises(NoAnswerError):
        hanging.result(time.monotonic())
    assert other.result(deadline) == 12
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: _has_ended(pid), "the child to be killed")
    with pytest.raises(NoAnswerError):
        BoundedCall(lambda: os.kill(os.getpid(), signal.SIGKILL)).result(deadline)


def test_call_does_not_hold_the_output_of_the_command() -> None:
    """A child that hangs outlives it, and a reader of a pipe would wait for its end."""

    def look() -> bool:
        null = Path(os.devnull).stat()
        return all(os.path.samestat(os.fstat(fd), null) for fd in range(3))

    assert BoundedCall(look).result(time.monotonic() + DEADLINE_SECONDS)


def _has_ended(pid: int) -> bool:
    """Reap the child, unless the call has done so."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
