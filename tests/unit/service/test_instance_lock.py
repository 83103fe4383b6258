"""Instance locks: one holder and the processes that inherit the lock."""

import fcntl
import os
import socket
import subprocess
from pathlib import Path

import pytest

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.service.instance_lock import SHARED_LOCK_NAME, lock_shared_directory


def test_instance_lock_excludes_a_second_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the holder; afterwards the lock is free."""
    # The holder has this process's number, so it counts as dead and would be waited for longer.
    monkeypatch.setattr("wasmdrop.service.instance_lock._WAIT_FOR_DEAD_SECONDS", 0.1)
    told = f"in use by process {os.getpid()} on "
    with (
        lock_shared_directory(tmp_path),
        pytest.raises(SettingsError, match=told),
        lock_shared_directory(tmp_path),
    ):
        pass
    with lock_shared_directory(tmp_path):
        pass


def lock_until_third_attempt(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[int]:
    """Lock a file until another lock of it has failed three times; return the failed attempts."""
    before = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(before, fcntl.LOCK_EX)
    failed: list[int] = []
    flock = fcntl.flock

    def counted(fd: int, operation: int) -> None:
        try:
            flock(fd, operation)
        except BlockingIOError:
            failed.append(fd)
            if len(failed) == 3:
                os.close(before)
            raise

    monkeypatch.setattr(fcntl, "flock", counted)
    return failed


def test_instance_lock_waits_for_an_ending_predecessor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes take a moment to end."""
    path = tmp_path / SHARED_LOCK_NAME
    monkeypatch.setattr("wasmdrop.service.instance_lock._WAIT_SECONDS", 60.0)
    failed = lock_until_third_attempt(monkeypatch, path)
    with lock_shared_directory(tmp_path):
        assert path.read_text().startswith(f"process {os.getpid()} on ")
    assert len(failed) == 3


def test_instance_lock_is_held_by_a_process_that_inherits_it(tmp_path: Path) -> None:
    """Until it ends, after the process that locked it."""
    with lock_shared_directory(tmp_path) as lock:
        heir = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    (tmp_path / SHARED_LOCK_NAME).write_text(f"process {os.getppid()} on {socket.gethostname()}")
    try:
        with pytest.raises(SettingsError, match="in use"), lock_shared_directory(tmp_path):
            pass
    finally:
        heir.kill()
        heir.wait()
    with lock_shared_directory(tmp_path):
        pass


@pytest.mark.parametrize("is_dead", [True, False])
def test_instance_lock_waits_longer_for_children_of_a_dead_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_dead: bool
) -> None:
    """They may wait for their disk. The file identifies the dead daemon by process id and host."""
    with subprocess.Popen(["true"]) as dead:
        pass
    path = tmp_path / SHARED_LOCK_NAME
    path.touch(0o600)
    path.write_text(f"process {dead.pid if is_dead else os.getppid()} on {socket.gethostname()}\n")
    monkeypatch.setattr("wasmdrop.service.instance_lock._WAIT_SECONDS", 0.0)
    monkeypatch.setattr("wasmdrop.service.instance_lock._WAIT_FOR_DEAD_SECONDS", 60.0)
    failed = lock_until_third_attempt(monkeypatch, path)
    if is_dead:
        with lock_shared_directory(tmp_path):
            assert len(failed) == 3
    else:
        with pytest.raises(SettingsError, match="in use"), lock_shared_directory(tmp_path):
            pass
        assert len(failed) == 1
