"""``wasmdrop doctor``, on hosts that lack a feature, and on good ones."""

import errno
import hashlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from tests.support.commands import command
from tests.support.daemon import drop, wait_until
from tests.support.doctor import Doctor, not_ok
from tests.support.fib import FIB
from tests.support.keys import key_bytes, new_key
from tests.support.require import require, require_root
from wasmdrop.service.doctor.mounts import _count_directories, _queue, _watches


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Give the command, with good directories."""
    return Doctor(tmp_path)


@pytest.fixture
def used(doctor: Doctor) -> Iterator[Doctor]:
    """Give the command beside a running daemon that has run a job."""
    drop(doctor.daemon.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    with doctor.daemon.running():
        doctor.daemon.submit("input.json", {"entry": "fib", "args": [3]})
        yield doctor


def test_doctor_on_a_good_host_reports_ok_and_changes_nothing(doctor: Doctor) -> None:
    """The checks and their words are the same before the first daemon; no file is created."""
    before = doctor.everything()
    status, found = doctor.examine()
    assert (status, not_ok(found)) == (0, {})
    assert doctor.everything() == before
    areas = {"kernel", "guest", "mounts", "state", "container"}
    assert {check["area"] for check in found.values()} == areas
    assert found["a job, end to end"]["found"].endswith("its result right")


def test_doctor_beside_a_running_daemon_names_it_and_does_not_disturb_it(used: Doctor) -> None:
    """Its directories are reported as before, and its jobs and modules are counted."""
    assert used.daemon.process is not None
    before = {name for name, _inode, _size in used.everything()}
    status, found = used.examine()
    assert (status, not_ok(found)) == (0, {})
    assert {name for name, _inode, _size in used.everything()} == before
    assert f"process {used.daemon.process.pid} on " in found["lock"]["found"]
    assert "1 jobs" in found["journal"]["found"]
    assert found["cache"]["found"].endswith("of 1024 MiB")
    assert found["cache"]["found"].startswith("3 files in ")
    marker = used.daemon.submit("input.json", {"entry": "fib", "args": [4]})
    assert marker["code"] == "ok"


@pytest.mark.parametrize("is_killed", [False, True])
def test_doctor_after_a_daemon_reads_its_state_and_changes_nothing(
    doctor: Doctor, is_killed: bool
) -> None:
    """After a clean stop it creates no SQLite log beside the journal.

    After a kill it uses the one that exists.
    """
    drop(doctor.daemon.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    doctor.daemon.start()
    doctor.daemon.submit("input.json", {"entry": "fib", "args": [3]})
    if is_killed:
        wait_until(lambda: doctor.daemon.events("job-finished"), "the end of the job")
        doctor.daemon.kill()
    else:
        doctor.daemon.stop()
    before = doctor.everything()
    status, found = doctor.examine()
    assert (status, not_ok(found)) == (0, {})
    assert "free" in found["lock"]["found"]
    assert "1 jobs" in found["journal"]["found"]
    assert doctor.everything() == before


def test_doctor_without_json_prints_one_line_per_check_with_advice(doctor: Doctor) -> None:
    """Also into a pipe. Special characters in paths do no harm."""
    strange = doctor.base / "no\x1b[31m\n[red]such"
    command = [sys.executable, "-m", "wasmdrop", "doctor", "--shared-dir", str(strange)]
    ended = doctor.run(command)
    assert ended.returncode == 1
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("problem")]
    assert line.split()[1:4] == ["mounts", "shared", "directory"]
    assert r"no\x1b[31m\n[red]such" in line
    assert "→ make it, mount it, or set WASMDROP_SHARED_DIR" in line
    checks = [line for line in lines if line.split(" ")[0] in {"ok", "warning", "problem"}]
    assert lines[-1].startswith(f"{len(checks)} checks: 1 problem, ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "none"], "--workers: expected an integer"),
        (["--state-dir", "{shared}/state"], "is inside WASMDROP_SHARED_DIR"),
    ],
)
def test_doctor_with_wrong_settings_ends_with_2(
    doctor: Doctor, flags: list[str], message: str
) -> None:
    """In one line: no check has run."""
    given = [flag.format(shared=doctor.daemon.shared) for flag in flags]
    ended = doctor.run([sys.executable, "-m", "wasmdrop", "doctor", *given])
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1


# Kernel and container


def test_doctor_without_landlock_reports_a_problem_unless_allowed(doctor: Doctor) -> None:
    """``strict`` would not start; ``best-effort`` does, and jobs still run."""
    missing = {"landlock_create_ruleset": errno.ENOSYS}
    _status, found = doctor.examine(failing=missing)
    assert not_ok(found) == {"Landlock": "problem", "confinement": "problem"}
    assert "missing: Landlock" in found["confinement"]["found"]
    status, found = doctor.examine("--sandbox", "best-effort", failing=missing)
    assert not_ok(found) == {"Landlock": "warning", "confinement": "warning"}
    assert status == 0
    key = new_key(doctor.base / "keys" / "key.pem")
    _status, found = doctor.examine(
        *("--sandbox", "best-effort", "--signing-key", str(key)), failing=missing
    )
    assert not_ok(found) == {"Landlock": "problem", "confinement": "problem"}


def test_doctor_with_a_signing_key_names_it_or_the_reason_to_refuse_it(doctor: Doctor) -> None:
    """With the words of the start that would be refused."""
    key = new_key(doctor.base / "keys" / "key.pem")
    key_id = hashlib.sha256(key_bytes(key, "DER", "-pubout")).hexdigest()
    _status, found = doctor.examine(WASMDROP_SIGNING_KEY=str(key))
    assert not_ok(found) == {}
    assert found["signing key"]["found"] == f"{key}: ed25519, key id {key_id}"
    key.chmod(0o644)
    status, found = doctor.examine(WASMDROP_SIGNING_KEY=str(key))
    assert (status, not_ok(found)) == (1, {"signing key": "problem"})
    assert f"{key}: any user can read it" in found["signing key"]["found"]
    assert "chmod 600" in found["signing key"]["advice"]


def test_doctor_with_a_sandbox_that_can_not_start_reports_a_problem(doctor: Doctor) -> None:
    """Here the fork server gets no pidfd of its children."""
    _status, found = doctor.examine(failing={"pidfd_open": errno.EPERM})
    assert not_ok(found) == {"confinement": "problem"}
    assert "no child could be started" in found["confinement"]["found"]


def test_doctor_with_hard_links_to_files_of_others_reports_a_warning(doctor: Doctor) -> None:
    """The owner of a slot could make the daemon read a file that only another user may read."""
    require_root()
    # Only a view of the setting changes, in a mount namespace: other daemons use the real one.
    setting = doctor.base.parent / f"{doctor.base.name}-setting"
    script = f'mount --bind {setting} /proc/sys/fs/protected_hardlinks && exec "$@"'
    for value, expected in (("0", {"hard links": "warning"}), ("1", {})):
        setting.write_text(f"{value}\n")
        ended = doctor.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", *command("doctor", "--json")]
        )
        found = {check["check"]: check for check in json.loads(ended.stdout)["checks"]}
        assert not_ok(found) == expected


def test_doctor_as_root_that_may_not_change_users_reports_a_problem(doctor: Doctor) -> None:
    """CAP_SETUID is dropped, as by a container's ``--cap-drop``."""
    require_root()
    _status, found = doctor.examine(without_capabilities=[7])
    assert not_ok(found) == {"user of jobs": "problem", "confinement": "problem"}
    assert "CAP_SETUID" in found["user of jobs"]["advice"]


def test_doctor_with_too_little_memory_processes_or_files_reports_a_warning(doctor: Doctor) -> None:
    """Settings that ask for more than the machine has are reported with both figures."""
    _status, found = doctor.examine(
        "--workers=1024", "--memory-mb=1048576", "--compile-memory-mb=1048576", open_files=512
    )
    assert not_ok(found) == {
        "memory of jobs": "warning",
        "memory of compilers": "warning",
        "open files": "warning",
    }
    assert "1024 jobs of 1048576 MiB" in found["memory of jobs"]["found"]
    assert "512 may be open" in found["open files"]["found"]


def test_doctor_without_a_temporary_directory_reports_a_problem(doctor: Doctor) -> None:
    """The checks that need one do not hide the others."""
    script = (
        "import sys, tempfile\n"
        "tempfile._candidate_tempdir_list = lambda: ['/proc']\n"
        "from wasmdrop.cli.main import main\n"
        "sys.exit(main(['doctor', '--json']))\n"
    )
    ended = doctor.run([sys.executable, "-c", script])
    found = {check["check"]: check for check in json.loads(ended.stdout)["checks"]}
    assert found["temporary directory"]["status"] == "problem"
    assert ended.returncode == 1


# Mounts


@pytest.mark.parametrize("name", ["shared", "wasm"])
def test_doctor_without_a_directory_reports_a_problem(doctor: Doctor, name: str) -> None:
    """The other checks still run."""
    (doctor.base / name).rmdir()
    _status, found = doctor.examine()
    assert not_ok(found) == {f"{name} directory": "problem"}
    assert str(doctor.base / name) in found[f"{name} directory"]["found"]
    assert found["a job, end to end"]["status"] == "ok"


def test_doctor_with_a_read_only_shared_directory_reports_a_problem(doctor: Doctor) -> None:
    """A wasm directory may be read-only."""
    require_root()
    for name, expected in (("shared", {"shared directory": "problem"}), ("wasm", {})):
        directory = doctor.base / name
        script = f"mount --bind {directory} {directory} && mount -o remount,ro,bind {directory}"
        doctor_line = f"exec {sys.executable} -m wasmdrop doctor --json"
        ended = doctor.run(["unshare", "-m", "sh", "-c", f"{script} && {doctor_line}"])
        require("Operation not permitted" not in ended.stderr, "a file system to mount")
        found = {check["check"]: check for check in json.loads(ended.stdout)["checks"]}
        assert not_ok(found) == expected
    assert found["wasm directory"]["found"].endswith("readable, not writable")


@pytest.mark.parametrize("watch", ["auto", "events"])
def test_doctor_on_a_mount_without_events_reports_a_problem_that_polling_solves(
    doctor: Doctor, watch: str
) -> None:
    """Watches succeed but raise no event, as on gVisor."""
    deaf = {"inotify_add_watch": 0}
    _status, found = doctor.examine("--watch", watch, failing=deaf)
    names = {"shared directory: events": "problem", "wasm directory: events": "problem"}
    assert not_ok(found) == names
    assert "WASMDROP_WATCH=poll" in found["shared directory: events"]["advice"]
    status, found = doctor.examine("--watch", "poll", failing=deaf)
    assert (status, not_ok(found)) == (0, {})


@pytest.mark.parametrize(
    ("call", "number", "word"),
    [
        ("inotify_add_watch", errno.ENOSPC, "fs.inotify.max_user_watches"),
        ("inotify_init", errno.EMFILE, "fs.inotify.max_user_instances"),
        ("inotify_init", errno.ENOSYS, "this kernel has no inotify"),
        ("inotify_init", errno.EPERM, "a filter of system calls forbids inotify"),
    ],
)
def test_doctor_with_a_directory_that_cant_be_watched_reports_a_warning(
    doctor: Doctor, call: str, number: int, word: str
) -> None:
    """The daemon polls instead. Files are delivered all the same."""
    status, found = doctor.examine(failing={call: number})
    names = {"shared directory: events": "warning", "wasm directory: events": "warning"}
    assert (status, not_ok(found)) == (0, names)
    assert word in found["shared directory: events"]["found"]
    status, found = doctor.examine("--watch", "poll", failing={call: number})
    assert (status, not_ok(found)) == (0, {})


def test_doctor_on_a_mount_that_can_not_sync_reports_a_problem_and_leaves_no_file(
    doctor: Doctor,
) -> None:
    """No temporary file stays behind."""
    before = doctor.everything()
    _status, found = doctor.examine(failing={"fsync": errno.EIO})
    assert found["shared directory: durable rename"]["status"] == "problem"
    assert "Input/output error" in found["shared directory: durable rename"]["found"]
    assert doctor.everything() == before


def test_doctor_with_too_many_directories_to_watch_counts_them(tmp_path: Path) -> None:
    """Hidden ones and those below the depth limit are not watched; a link is no directory."""
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    (tmp_path / ".hidden/x").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert _count_directories(str(tmp_path), 8) == 5
    assert _count_directories(str(tmp_path), 2) == 3
    statuses = [_watches(count, 100).status.value for count in (50, 51, 99, 100)]
    assert statuses == ["ok", "warning", "warning", "problem"]
    assert [_queue(count).status.value for count in (16_384, 16_383)] == ["ok", "warning"]


# The state directory


def make_state(doctor: Doctor) -> Path:
    """Make the state directory, as the daemon would."""
    doctor.daemon.state.mkdir(mode=0o700)
    return doctor.daemon.state


def open_to_group(state: Path) -> None:
    """Let the group write."""
    state.chmod(0o770)


def open_code(state: Path) -> None:
    """Let others write to the machine code."""
    (state / "code").mkdir()
    (state / "code").chmod(0o703)


def replace_by_file(state: Path) -> None:
    """Put a file in its place."""
    state.rmdir()
    state.touch()


def give_away(state: Path) -> None:
    """Make it another user's."""
    require_root()
    os.chown(state, 12345, -1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (open_to_group, "its mode is 0770"),
        (open_code, "its mode is 0703"),
        (replace_by_file, "not a directory"),
        (give_away, "belongs to user 12345"),
    ],
)
def test_doctor_with_a_state_directory_that_is_not_private_reports_a_problem(
    doctor: Doctor, change: Callable[[Path], None], words: str
) -> None:
    """The daemon does not start on it."""
    change(make_state(doctor))
    _status, found = doctor.examine()
    assert not_ok(found) == {"state directory": "problem"}
    assert words in found["state directory"]["found"]
    ended = doctor.run([sys.executable, "-m", "wasmdrop", "serve"])
    assert ended.returncode in {2, 3}
    assert str(doctor.daemon.state) in ended.stderr


def test_doctor_with_a_state_directory_that_others_may_read_or_replace_reports_a_warning(
    doctor: Doctor,
) -> None:
    """The journal holds inputs; a parent directory that all may write to lets them replace it."""
    state = make_state(doctor)
    state.chmod(0o755)
    _status, found = doctor.examine()
    assert not_ok(found) == {"state directory": "warning"}
    assert found["state directory"]["advice"] == f"chmod 700 {state}"
    state.chmod(0o700)
    doctor.base.chmod(0o777)
    _status, found = doctor.examine()
    assert not_ok(found) == {"state directory": "warning"}
    assert f"others may write to {doctor.base}" in found["state directory"]["found"]


def test_doctor_with_a_state_directory_that_can_not_be_made_reports_a_problem(
    doctor: Doctor,
) -> None:
    """A file has the name of the directory."""
    (doctor.base / "file").touch()
    _status, found = doctor.examine("--state-dir", str(doctor.base / "file" / "state"))
    assert not_ok(found) == {"state directory": "problem"}
    assert "can't be made" in found["state directory"]["found"]


def test_doctor_with_an_invalid_journal_reports_a_problem(doctor: Doctor) -> None:
    """Bytes of another format, or of an unknown version."""
    journal = make_state(doctor) / "journal.sqlite"
    journal.write_bytes(b"no database at all" * 100)
    _status, found = doctor.examine()
    assert not_ok(found) == {"journal": "problem"}
    journal.unlink()
    connection = sqlite3.connect(journal)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    _status, found = doctor.examine()
    assert not_ok(found) == {"journal": "problem"}
    assert "of version 99" in found["journal"]["found"]


def test_doctor_with_json_prints_lines_that_a_script_can_read(doctor: Doctor) -> None:
    """The names of the fields are fixed."""
    ended = doctor.run([sys.executable, "-m", "wasmdrop", "doctor", "--json"])
    report: dict[str, Any] = json.loads(ended.stdout)
    assert set(report) == {"status", "checks"}
    for check in report["checks"]:
        assert set(check) == {"area", "check", "status", "found", "advice"}
