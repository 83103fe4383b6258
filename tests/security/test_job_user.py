"""The user of jobs if the daemon is root: one that no other process on the host has."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.doctor import Doctor
from tests.support.fib import FIB
from tests.support.guests import running_in
from tests.support.require import require_root
from tests.support.wasi_programs import READER
from wasmdrop.system.job_user import JobUser, foreign_processes


@pytest.fixture(autouse=True)
def _as_root() -> None:
    require_root()


#: Users that no other test run on this machine uses, because its processes would count.
_USERS: Final = itertools.count(60706 + os.getpid() % 100 * 4)

#: The user of many services.
_NOBODY: Final = 65534

#: Changes to the user in its first argument, then stops each process in the other arguments, and
#: prints those that it may stop.
_STOPPER: Final = """
import os, signal, sys
user = int(sys.argv.pop(1))
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
for pid in map(int, sys.argv[1:]):
    try:
        os.kill(pid, signal.SIGSTOP)
    except PermissionError:
        continue
    os.kill(pid, signal.SIGCONT)
    print(pid)
"""


def stoppable(pids: list[int], user: int) -> list[int]:
    """Return the processes that a process of that user can stop."""
    command = [sys.executable, "-I", "-S", "-c", _STOPPER, str(user), *map(str, pids)]
    done = subprocess.run(command, capture_output=True, check=True)
    return [int(line) for line in done.stdout.split()]


def uids_of(pid: int) -> set[int]:
    """Return real, effective, saved and file system user of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return set(map(int, next(line for line in lines if line.startswith("Uid:")).split()[1:]))


def gids_of(pid: int) -> set[int]:
    """Return real, effective, saved and file system group of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return set(map(int, next(line for line in lines if line.startswith("Gid:")).split()[1:]))


def idle_children(daemon: Daemon) -> list[int]:
    """Wait until the fork server's children have changed their user; return them."""

    def look() -> list[int] | None:
        server = daemon.fork_server()
        listed = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        pids = [int(pid) for pid in listed]
        return pids if pids and all(0 not in uids_of(pid) for pid in pids) else None

    return wait_until(look, "children that have changed their user")


@pytest.fixture
def stranger() -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Return a user that has a process of its own, and that process."""
    user = next(_USERS)
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=user, group=user, cwd="/")
    yield user, process
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_children_of_default_user_can_not_be_signalled_by_others(tmp_path: Path) -> None:
    """Such as nobody; only by their own user."""
    daemon = Daemon(tmp_path, WASMDROP_JOB_USER="")
    with daemon.running():
        children = idle_children(daemon)
        assert {uid for pid in children for uid in uids_of(pid)} == {60942}
        assert stoppable(children, _NOBODY) == []
        assert stoppable(children, 60942) == children


def test_jobs_run_as_user_of_setting(tmp_path: Path, guest: str) -> None:
    """Also with a directory and grants; the files of the directory belong to that user."""
    user = next(_USERS)
    for path in (tmp_path, *tmp_path.parents):
        if path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    granted = tmp_path / "granted"
    granted.mkdir(mode=0o755)
    (granted / "title").write_text("a book")
    daemon = Daemon(
        tmp_path, WASMDROP_JOB_USER=f"{user}:{user + 1}", WASMDROP_GRANTS=f"b={granted}"
    )
    reader = READER.replace("FLAGS", "0").replace("RIGHTS", "2")
    drop(daemon.wasm / "read.wasm", bytes(wat2wasm(reader)))
    drop(daemon.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
    with running_in(guest, daemon):
        for pid in idle_children(daemon):
            assert (uids_of(pid), gids_of(pid)) == ({user}, {user + 1})
        marker = daemon.submit(
            "input-read.json",
            {"module": "read", "stdin": "title", "grants": ["b"], "files": {"own": "text"}},
        )
        assert marker["code"] == "ok", marker["message"]
        assert daemon.result("input-read.json")["stdout"] == "a book"
        assert daemon.result_path("input-read.json", ".output").joinpath("own").exists()
        job = {"module": "fib", "entry": "fib", "args": [10]}
        assert daemon.submit("input-fib.json", job)["code"] == "ok"
        assert not daemon.events("job-user-shared")


def test_foreign_process_of_job_user_is_reported(
    tmp_path: Path, stranger: tuple[int, "subprocess.Popen[bytes]"]
) -> None:
    """In the daemon's log at the start, and by ``wasmdrop doctor``."""
    user, _process = stranger
    doctor = Doctor(tmp_path)
    _status, found = doctor.examine(WASMDROP_JOB_USER=str(user))
    assert found["user of jobs"]["status"] == "warning"
    assert "1 processes that are no jobs" in found["user of jobs"]["found"]
    daemon = Daemon(tmp_path, WASMDROP_JOB_USER=str(user))
    with daemon.running():
        (event,) = daemon.events("job-user-shared")
        assert (event["user"], event["processes"]) == (user, 1)


def test_jobs_are_no_foreign_processes_to_doctor(tmp_path: Path) -> None:
    """To a second daemon they are."""
    user = next(_USERS)
    daemon = Daemon(tmp_path, WASMDROP_JOB_USER=str(user))
    with daemon.running():
        assert idle_children(daemon)
        assert foreign_processes(JobUser(user, user), besides_jobs=True) == 0
        assert foreign_processes(JobUser(user, user)) > 0


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("0", "jobs must not be root's"),
        ("root", "jobs must not be root's"),
        ("1234:0", "jobs must not be root's"),
        ("no such user", "there is no user of this name"),
    ],
)
def test_invalid_job_user_prevents_start(tmp_path: Path, given: str, reason: str) -> None:
    """With one line that names the setting."""
    daemon = Daemon(tmp_path, WASMDROP_JOB_USER=given)
    done = subprocess.run(
        [sys.executable, "-m", "wasmdrop", "serve"],
        env=daemon.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "WASMDROP_JOB_USER" in line
    assert reason in line


def test_job_user_missing_in_user_namespace_prevents_start(tmp_path: Path) -> None:
    """If only root is mapped, jobs could not run as another user."""
    daemon = Daemon(tmp_path, WASMDROP_JOB_USER="")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-m", "wasmdrop", "serve"],
        env=daemon.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "the user and group 60942:60942 of jobs" in done.stderr
    assert "WASMDROP_JOB_USER" in done.stderr
