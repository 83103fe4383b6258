"""``wasmdrop retry``: reruns a job's input if it is still in the slot."""

import os
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from tests.support.commands import listed, run, wait_for_state
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import with_fib


def finished(daemon: Daemon, slot: str, count: int) -> list[dict[str, Any]]:
    """Wait until this many jobs of a slot are finished; return all of the slot's jobs."""

    def look() -> bool:
        return len(listed(daemon, "--slot", slot, "--state", "delivered")) == count

    wait_until(look, f"{count} finished jobs of {slot}")
    return listed(daemon, "--slot", slot)


def refused(daemon: Daemon, *words: str) -> tuple[int, str]:
    """Return status and message of a retry that drops nothing."""
    done = run(daemon, "retry", *words)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return done.returncode, line


def test_retry_of_an_input_that_still_exists_runs_it_again(daemon: Daemon) -> None:
    """As a new job; the file is the same one, with a new time."""
    path = daemon.shared / "input-a.json"
    job = daemon.submit("input-a.json", {"entry": "fib", "args": [12]})["job"]
    wait_for_state(daemon, "a", "delivered")
    before = path.stat()
    done = run(daemon, "retry", job)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}\n", "")
    first, second = finished(daemon, "a", 2)
    assert (first["job"], second["input"]) == (job, first["input"])
    after = path.stat()
    assert after.st_ino == before.st_ino
    assert after.st_mtime_ns > before.st_mtime_ns
    wait_until(lambda: (daemon.marker("input-a.json") or {})["job"] == second["job"], "its marker")


def test_retry_of_a_hard_link_does_not_touch_its_other_names(daemon: Daemon) -> None:
    """The input becomes a file of its own: the other name may be an input too."""
    original = daemon.shared / "input-b.json"
    path = daemon.shared / "input-a.json"
    daemon.submit("input-b.json", {"entry": "fib", "args": [12]})
    path.hardlink_to(original)
    job = daemon.wait_for("input-a.json", original.read_bytes())["job"]
    wait_for_state(daemon, "a", "delivered")
    before = original.stat()
    path.chmod(0o666)
    assert run(daemon, "retry", job).returncode == 0
    finished(daemon, "a", 2)
    assert original.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino != before.st_ino
    assert path.stat().st_mode & 0o777 == 0o666
    assert len(listed(daemon, "--slot", "b")) == 1


def test_retry_of_a_changed_input_restores_it_only_if_asked_to(daemon: Daemon) -> None:
    """And only for a failed job, whose input the journal keeps."""
    path = daemon.shared / "input-a.json"
    failed = daemon.submit("input-a.json", '{"entry": "nope"}')["job"]
    good = daemon.submit("input-a.json", '{"entry": "fib", "args": [3]}')["job"]
    finished(daemon, "a", 2)
    status, message = refused(daemon, failed)
    assert status == 1
    assert "it is another input now; --restore restores the job's input" in message
    assert run(daemon, "retry", "--restore", failed).returncode == 0
    assert path.read_bytes() == b'{"entry": "nope"}'
    codes = ["entry-not-found", "ok", "entry-not-found"]
    assert [one["code"] for one in finished(daemon, "a", 3)] == codes
    status, message = refused(daemon, "--restore", good)
    assert status == 1
    assert "the journal has no copy" in message
    path.unlink()
    status, message = refused(daemon, failed)
    assert status == 1
    assert "it is gone; --restore" in message
    assert run(daemon, "retry", "--restore", failed).returncode == 0
    finished(daemon, "a", 4)
    assert list(daemon.shared.glob(".input*")) == []


def test_retry_never_replaces_an_input_that_has_not_run(tmp_path: Path) -> None:
    """It would be lost without a result."""
    daemon = with_fib(tmp_path)
    with daemon.running():
        job = daemon.submit("input-a.json", '{"entry": "nope"}')["job"]
    path = daemon.shared / "input-a.json"
    drop(path, '{"entry": "fib", "args": [4]}')
    status, message = refused(daemon, "--restore", job)
    assert status == 1
    assert "the slot has another input, which has not run yet" in message
    assert path.read_bytes() == b'{"entry": "fib", "args": [4]}'


def test_retry_without_a_daemon_runs_with_the_next_one(tmp_path: Path) -> None:
    """It is a drop like any other."""
    daemon = with_fib(tmp_path)
    with daemon.running():
        job = daemon.submit("batch/input.json", {"entry": "fib", "args": [12]})["job"]
    assert run(daemon, "retry", job).returncode == 0
    with daemon.running():
        finished(daemon, "batch/input.json", 2)


@pytest.mark.parametrize("kind", ["link", "directory", "linked directory", "FIFO"])
def test_retry_of_a_slot_without_a_plain_file_changes_nothing(
    daemon: Daemon, tmp_path: Path, kind: str
) -> None:
    """Nothing is followed, opened or replaced."""
    path = daemon.shared / "batch" / "input.json"
    content = b'{"entry": "nope"}'
    job = daemon.submit("batch/input.json", content)["job"]
    wait_for_state(daemon, "batch/input.json", "delivered")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "input.json").write_bytes(content)
    os.utime(elsewhere / "input.json", ns=(1, 1))
    path.unlink()
    if kind == "link":
        path.symlink_to(elsewhere / "input.json")
    elif kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.parent.rename(tmp_path / "aside")
        path.parent.symlink_to(elsewhere)
    status, message = refused(daemon, "--restore", job)
    assert status in {1, 2}, message
    assert (elsewhere / "input.json").stat().st_mtime_ns == 1
    assert list(elsewhere.iterdir()) == [elsewhere / "input.json"]


def test_retry_of_a_job_without_an_input_is_refused(tmp_path: Path) -> None:
    """The drop of its module ran it."""
    daemon = Daemon(tmp_path)
    with daemon.running():
        drop(daemon.wasm / "module.wasm", bytes(wat2wasm('(module (func (export "run")))')))
        found = wait_for_state(daemon, "input.json", "delivered")
        status, message = refused(daemon, found["job"])
    assert status == 2
    assert f"it had no input; drop {daemon.wasm / 'module.wasm'} again" in message


def test_retry_of_an_input_that_was_not_read_runs_it_and_restores_nothing(tmp_path: Path) -> None:
    """It is known by its digest or by its identity; the journal has no copy of it."""
    daemon = Daemon(tmp_path, WASMDROP_MAX_INPUT_MB="1", WASMDROP_SETTLE_SEC="0.05")
    path = daemon.shared / "input-a.json"
    with daemon.running():
        for slot, size in (("a", 2 << 20), ("b", 1 << 30)):
            path = daemon.shared / f"input-{slot}.json"
            with path.with_name(".work").open("wb") as file:
                file.truncate(size)
            path.with_name(".work").rename(path)
            (first,) = finished(daemon, slot, 1)
            assert first["input"]["bytes"] == size
            assert (first["input"]["sha256"] is None) == (slot == "b")
            assert run(daemon, "retry", first["job"]).returncode == 0
            finished(daemon, slot, 2)
            path.unlink()
            status, message = refused(daemon, "--restore", first["job"])
            assert status == 1
            assert "the journal has no copy" in message
