"""Files and directories that the daemon's user may not use: messages, and later access.

As root, the daemon runs without the capabilities that override file modes.
"""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.doctor import LAUNCHER, Doctor
from tests.support.fib import FIB
from tests.support.require import require_root

GOOD = {"entry": "fib", "args": [12]}
MODULE = bytes(wat2wasm(FIB))


WITHOUT_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def unprivileged(daemon: Daemon) -> Daemon:
    """Take from a daemon, or doctor, the capability to ignore file modes."""
    if os.geteuid() == 0:
        daemon.prefix = WITHOUT_OVERRIDE
    return daemon


@pytest.fixture(params=["events", "poll"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """Give a running daemon with a default module, with events alone and with polling."""
    it = unprivileged(
        Daemon(
            tmp_path,
            WASMDROP_WATCH=request.param,
            WASMDROP_POLL_SEC="0.1",
            WASMDROP_RESCAN_SEC="3600",
            WASMDROP_SETTLE_SEC="0.05",
        )
    )
    drop(it.wasm / "module.wasm", MODULE)
    with it.running():
        yield it


def drop_closed(path: Path, content: bytes) -> None:
    """Drop a file with mode 0 and a fixed modification time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(".closed")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0)
    os.write(fd, content)
    os.close(fd)
    temporary.rename(path)


def ends(daemon: Daemon, name: str, code: str) -> None:
    """Wait until the slot's last job has ended with this code."""

    def has_ended() -> bool:
        marker = daemon.marker(name)
        return marker is not None and marker["code"] == code

    wait_until(has_ended, f"{name} to end as {code}; {daemon.log_text()[-1000:]}")


@pytest.mark.parametrize("name", ["input.json", "input-one.json", "below/input.json"])
def test_input_that_becomes_readable_by_chmod_is_run(daemon: Daemon, name: str) -> None:
    """Its modification time stays the same. A further change of its mode runs nothing."""
    path = daemon.shared / name
    drop_closed(path, json.dumps(GOOD).encode())
    ends(daemon, name, "invalid-input")
    marker = daemon.marker(name)
    assert marker is not None
    assert "may not read it" in marker["message"]
    assert "its mode is 0000; the daemon is user" in marker["message"]
    assert "chmod a+r" in marker["message"]
    path.chmod(0o644)
    ends(daemon, name, "ok")
    assert daemon.result(name)["results"] == [144]
    path.chmod(0)
    for _ in range(10):
        daemon.submit("input-after.json", GOOD)
    finished = [event["slot"] for event in daemon.events("job-finished")]
    assert finished.count(name) == 2


def test_input_that_becomes_readable_by_chown_is_run(daemon: Daemon) -> None:
    """It belonged to another user."""
    require_root()
    path = daemon.shared / ".input"
    path.write_text(json.dumps(GOOD))
    path.chmod(0o600)
    os.chown(path, 4001, 4001)
    path.rename(daemon.shared / "input.json")
    ends(daemon, "input.json", "invalid-input")
    os.chown(daemon.shared / "input.json", 0, 0)
    ends(daemon, "input.json", "ok")


def test_directory_that_becomes_readable_by_chmod_is_scanned(daemon: Daemon) -> None:
    """And watched: a later drop is noticed as well."""
    made = daemon.shared / ".made"
    made.mkdir()
    drop(made / "input.json", GOOD)
    made.chmod(0)
    made.rename(daemon.shared / "closed")
    told = wait_until(lambda: daemon.events("scan-incomplete"), "the directory to be told of")
    assert "list and enter it" in told[0]["error"]
    (daemon.shared / "closed").chmod(0o755)
    ends(daemon, "closed/input.json", "ok")
    assert daemon.submit("closed/input-2.json", GOOD)["code"] == "ok"


def is_taken(daemon: Daemon, path: Path) -> bool:
    """Return whether the daemon has handled the file's last version."""
    status = path.lstat()
    journal = f"file:{daemon.state / 'journal.sqlite'}?mode=ro"
    with contextlib.closing(sqlite3.connect(journal, uri=True)) as connection:
        query = "SELECT version FROM taken WHERE path = ?"
        found = connection.execute(query, [os.fsencode(path)]).fetchone()
    return found is not None and found[0][8:16] == status.st_ino.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("module", "name", "text"),
    [
        ("wasm/module.wasm", "input.json", GOOD),
        ("wasm/named.wasm", "input.json", GOOD | {"module": "named"}),
        ("shared/below/module.wasm", "below/input.json", GOOD),
    ],
)
def test_module_that_becomes_readable_by_chmod_is_run(
    daemon: Daemon, module: str, name: str, text: dict[str, object]
) -> None:
    """By the jobs that failed for lack of it."""
    path = daemon.shared.parent / module
    drop_closed(path, MODULE)
    wait_until(lambda: is_taken(daemon, path), "the module to be taken")
    assert daemon.submit(name, text)["code"] == "invalid-module"
    path.chmod(0o644)
    ends(daemon, name, "ok")


def refusal(daemon: Daemon) -> str:
    """Return why a daemon does not start, in one line."""
    ended = subprocess.run(
        [*daemon.prefix, sys.executable, "-m", "wasmdrop", "serve"],
        env=daemon.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode in {2, 3}
    assert "Traceback" not in ended.stderr
    return ended.stderr.splitlines()[-1]


def closed_shared(daemon: Daemon) -> None:
    """Take the right to write to the shared directory."""
    daemon.shared.chmod(0o555)


def foreign_shared(daemon: Daemon) -> None:
    """Give the shared directory to another user."""
    os.chown(daemon.shared, 4001, 4002)


def closed_above(daemon: Daemon) -> None:
    """Take the right to look at the shared directory."""
    daemon.shared = daemon.shared.parent / "above" / "shared"
    daemon.shared.mkdir(parents=True)
    daemon.shared.parent.chmod(0)
    daemon.environment["WASMDROP_SHARED_DIR"] = str(daemon.shared)


def open_state(daemon: Daemon) -> None:
    """Let others write to the state directory."""
    daemon.state.mkdir()
    daemon.state.chmod(0o777)


def foreign_state(daemon: Daemon) -> None:
    """Have a state directory of another user."""
    require_root()
    daemon.state.mkdir()
    os.chown(daemon.state, 4001, 4001)


def no_state(daemon: Daemon) -> None:
    """Have the state directory where it can't be made."""
    above = daemon.state / "above"
    above.mkdir(parents=True)
    above.chmod(0o555)
    daemon.environment["WASMDROP_STATE_DIR"] = str(above / "state")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (closed_shared, ["can't be written to", "mode is 0555", "fsGroup", "--user"]),
        pytest.param(
            foreign_shared,
            ["belongs to user 4001 and group 4002", "chown", "runAsUser"],
        ),
        (closed_above, ["can't be looked at by user", "chmod a+x"]),
        (open_state, ["others may write to it", "chmod go-w"]),
        pytest.param(foreign_state, ["belongs to user 4001", "chown -R 0 it", "--user"]),
        (no_state, ["can't be made by user", "install -d -m 700", "WASMDROP_STATE_DIR"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_start_without_rights_says_what_to_do(
    tmp_path: Path, spoil: Callable[[Daemon], None], words: list[str]
) -> None:
    """Who may use the directory, who the daemon is, and how to change either."""
    daemon = unprivileged(Daemon(tmp_path))
    spoil(daemon)
    said = refusal(daemon)
    for word in words:
        assert word in said


def test_doctor_names_the_owner_of_a_directory_that_cant_be_used(tmp_path: Path) -> None:
    """And the user that it runs as."""
    require_root()
    doctor = Doctor(tmp_path)
    closed_shared(doctor.daemon)
    (tmp_path / "wasm").chmod(0)
    _status, found = doctor.examine(without_capabilities=[1, 2])
    for check, mode in (("shared directory", "0555"), ("wasm directory", "0000")):
        assert found[check]["status"] == "problem"
        assert f"its mode is {mode}; the daemon is user 0" in found[check]["found"]
        assert "fsGroup" in found[check]["advice"]


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (1, "allow landlock_create_ruleset, landlock_add_rule and landlock_restrict_self"),
        (13, "a filter of system calls forbids it (Permission denied)"),
        (38, "use Linux 5.13 or later"),
        (95, "add landlock to the lsm= of the kernel's command line"),
    ],
    ids=["EPERM", "EACCES", "ENOSYS", "EOPNOTSUPP"],
)
def test_landlock_that_is_missing_is_reported_with_its_reason(
    tmp_path: Path, number: int, word: str
) -> None:
    """By the daemon and by doctor: a container's filter, a kernel without it, one with it off."""
    doctor = Doctor(tmp_path)
    command = [sys.executable, "-m", "wasmdrop", "serve"]
    taken_away = json.dumps([[[444, number]], [], 0, command])
    ended = doctor.run([sys.executable, "-c", LAUNCHER, taken_away])
    assert ended.returncode == 2
    assert word in ended.stderr
    _status, found = doctor.examine(failing={"landlock_create_ruleset": number})
    assert word in f"{found['Landlock']['found']}: {found['Landlock']['advice']}"
    assert word in found["confinement"]["found"]
