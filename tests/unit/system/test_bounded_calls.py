"""Calls that may hang, in child processes."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.daemon import DEADLINE_SECONDS
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
        (tmp_path / "pid").write_text(str(os.getpid()))
        signal.pause()

    deadline = time.monotonic() + DEADLINE_SECONDS
    hanging, other = BoundedCall(hang), BoundedCall(lambda: 12)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
    with pytest.raises(NoAnswerError):
        hanging.result(time.monotonic())
    assert other.result(deadline) == 12
    pid = int((tmp_path / "pid").read_text())
    while os.path.exists(f"/proc/{pid}"):  # noqa: PTH110 - of the kernel
        assert time.monotonic() < deadline
        _reap(pid)
    with pytest.raises(NoAnswerError):
        BoundedCall(lambda: os.kill(os.getpid(), signal.SIGKILL)).result(deadline)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
