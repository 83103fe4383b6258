"""Events around the daemon: a second daemon, lost state, removed directories."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.commands import listed
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB, with_fib
from tests.support.require import require_root

LOOP = '(module (func (export "run") (loop br 0)))'


def fib(number: int) -> str:
    """Return an input."""
    return json.dumps({"entry": "fib", "args": [number]})


def states(daemon: Daemon) -> dict[str, str]:
    """Return the journal's state of each slot's last job."""
    with contextlib.closing(
        sqlite3.connect(f"file:{daemon.state}/journal.sqlite?mode=ro", uri=True)
    ) as journal:
        rows = journal.execute("SELECT slot, state FROM jobs ORDER BY seq").fetchall()
    return {os.fsdecode(slot): state for slot, state in rows}


def attempt(daemon: Daemon) -> int | None:
    """Return the running attempt of the only job, if there is one."""
    with contextlib.closing(
        sqlite3.connect(f"file:{daemon.state}/journal.sqlite?mode=ro", uri=True)
    ) as journal:
        jobs = journal.execute("SELECT job FROM jobs WHERE state = 'running'").fetchall()
    return json.loads(jobs[0][0])["attempt"] if jobs else None


def repeated(daemon: Daemon) -> bool:
    """Send SIGTERM once more; return whether that ended the drain."""
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    return bool(daemon.events("drain-skipped"))


@contextlib.contextmanager
def mounted(*arguments: str) -> Iterator[None]:
    """Mount for a block."""
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", arguments[-1]], check=True)


def refused(daemon: Daemon, **variables: str) -> str:
    """Start another daemon with these changes; return the error with which it does not start."""
    ended = subprocess.run(
        [sys.executable, "-m", "wasmdrop", "serve"],
        env=daemon.environment | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    return ended.stderr.decode()


def test_second_daemon_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    """On the same shared directory, whatever its state directory, and the other way round.

    The message names the first.
    """
    daemon = with_fib(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    with daemon.running():
        assert daemon.process is not None
        holder = f"is in use by process {daemon.process.pid} on "
        assert f"shared directory {daemon.shared} {holder}" in refused(
            daemon, WASMDROP_STATE_DIR=str(tmp_path / "other-state")
        )
        assert f"state directory {daemon.state} {holder}" in refused(
            daemon, WASMDROP_SHARED_DIR=str(other)
        )
        daemon.submit("input.json", fib(12))
    with daemon.running():
        daemon.submit("input.json", fib(7))


@pytest.mark.parametrize("kind", ["fifo", "link", "hard-link", "directory"])
def test_instance_lock_name_that_is_taken_is_freed(tmp_path: Path, kind: str) -> None:
    """A user who can write to the shared directory does not keep the daemon from starting."""
    daemon = with_fib(tmp_path)
    claim = daemon.shared / ".wasmdrop.lock"
    target = tmp_path / "target"
    target.write_text("precious")
    if kind == "fifo":
        os.mkfifo(claim)
    elif kind == "link":
        claim.symlink_to(target)
    elif kind == "hard-link":
        claim.hardlink_to(target)
    else:
        claim.mkdir()
    with daemon.running():
        assert daemon.submit("input.json", fib(12))["code"] == "ok"
        assert len(daemon.events("lock-file-set-aside")) == 1
        assert "in use by process" in refused(daemon, WASMDROP_STATE_DIR=str(tmp_path / "other"))
    assert target.read_text() == "precious"
    assert len(list(daemon.shared.glob(".wasmdrop.lock.aside-*"))) == 1


def test_second_signal_ends_the_drain_at_once_and_loses_nothing(tmp_path: Path) -> None:
    """The running job is ended, its attempt not counted, and reruns at the next start."""
    daemon = Daemon(tmp_path, WASMDROP_DRAIN_SEC="600", TIMEOUT_SEC="500")
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(LOOP)))
    with daemon.running():
        drop(daemon.shared / "input.json", "{}")
        wait_until(lambda: states(daemon).get("input.json") == "running", "the job to run")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        wait_until(lambda: daemon.events("stopping"), "the first signal to be heard")
        wait_until(lambda: repeated(daemon), "a repetition that is not the same request")
    assert daemon.marker("input.json") is None
    daemon.environment["TIMEOUT_SEC"] = "0.2"
    with daemon.running():
        marker = wait_until(lambda: daemon.marker("input.json"), "the marker")
    assert (marker["code"], marker["attempt"]) == ("timeout", 1)


def test_job_that_crashes_the_daemon_is_tried_a_limited_number_of_times(tmp_path: Path) -> None:
    """Over all restarts: then it ends as crashed, and others are served."""
    daemon = Daemon(tmp_path, WASMDROP_ATTEMPTS="2", TIMEOUT_SEC="500")
    drop(daemon.wasm / "loop.wasm", bytes(wat2wasm(LOOP)))
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    daemon.start()
    drop(daemon.shared / "input.json", '{"module":"loop"}')
    for number in (1, 2):
        wait_until(lambda number=number: attempt(daemon) == number, "the job to run")  # type: ignore[misc]
        daemon.kill()
        daemon.start()
    marker = wait_until(lambda: daemon.marker("input.json"), "the marker")
    daemon.submit("input-other.json", fib(12))
    assert daemon.stop() == 0
    assert (marker["code"], marker["attempt"]) == ("crashed", 2)
    assert "given up after 2 attempts" in marker["message"]


def test_daemon_without_its_state_trusts_the_markers(tmp_path: Path) -> None:
    """Finished jobs are not rerun; new drops, and inputs dropped again, are."""
    daemon = with_fib(tmp_path)
    names = [f"input-{number}.json" for number in range(5)] + ["input.json", "deep/input.json"]
    (daemon.shared / "deep").mkdir()
    with daemon.running():
        for number, name in enumerate(names):
            daemon.submit(name, fib(number))
    before = {name: daemon.marker(name) for name in names}
    shutil.rmtree(daemon.state)
    drop(daemon.shared / "input-new.json", fib(12))
    os.utime(daemon.shared / "input-1.json")
    drop(daemon.shared / "input-2.json", fib(20))
    daemon.result_path("input-3.json", ".txt").write_text("torn")
    with daemon.running():
        assert daemon.wait_for("input-new.json", fib(12).encode())["code"] == "ok"
        for name in ("input-1.json", "input-3.json"):
            wait_until(lambda name=name: daemon.marker(name) != before[name], name)  # type: ignore[misc]
        daemon.wait_for("input-2.json", fib(20).encode())
    ran = sorted(event["slot"] for event in daemon.events("job-finished")[len(names) :])
    assert ran == ["input-1.json", "input-2.json", "input-3.json", "input-new.json"]
    for name in ("input-0.json", "input-4.json", "input.json", "deep/input.json"):
        assert daemon.marker(name) == before[name]
    # From now on the journal knows them.
    with daemon.running():
        daemon.submit("input-last.json", fib(1))
    assert len(daemon.events("job-finished")) == len(names) + 5


def test_daemon_without_its_state_runs_a_new_module(tmp_path: Path) -> None:
    """The root slot's marker names the module that it ran."""
    daemon = with_fib(tmp_path)
    with daemon.running():
        before = daemon.submit("input.json", '{"entry":"fib","args":[3]}')
    shutil.rmtree(daemon.state)
    text = FIB.replace('(export "fib")', '(export "fib") (export "fib2")')
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(text)))
    with daemon.running():
        wait_until(lambda: daemon.marker("input.json") != before, "another marker")


def test_shared_directory_that_is_replaced_is_watched_again(tmp_path: Path) -> None:
    """By its events: a scan would come in an hour."""
    daemon = with_fib(tmp_path, WASMDROP_WATCH="events", WASMDROP_RESCAN_SEC="3600")
    with daemon.running():
        daemon.submit("input.json", fib(3))
        daemon.shared.rename(tmp_path / "moved")
        daemon.shared.mkdir()
        wait_until(lambda: daemon.events("directory-replaced"), "the daemon to see it")
        assert daemon.submit("input.json", fib(12))["code"] == "ok"
        (daemon.shared / "deep").mkdir()
        assert daemon.submit("deep/input.json", fib(11))["code"] == "ok"


def test_file_system_that_is_mounted_later_is_watched(tmp_path: Path) -> None:
    """Files on it are taken; when it is unmounted, those below it are."""
    require_root()
    daemon = with_fib(tmp_path, WASMDROP_WATCH="events", WASMDROP_RESCAN_SEC="3600")
    volume = tmp_path / "volume"
    volume.mkdir()
    drop(volume / "input.json", fib(10))
    with daemon.running():
        with mounted("--bind", str(volume), str(daemon.shared)):
            daemon.wait_for("input.json", fib(10).encode())
            assert daemon.submit("input.json", fib(12))["code"] == "ok"
        assert daemon.submit("input.json", fib(3))["code"] == "ok"
        wait_until(lambda: len(daemon.events("directory-replaced")) == 2, "both to be noticed")


def test_disk_that_is_nearly_full_accepts_no_drop_until_there_is_room(tmp_path: Path) -> None:
    """The drop stays in its slot, and the journal has nothing of it."""
    require_root()
    shared = tmp_path / "shared"
    shared.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(shared)):
        daemon = with_fib(tmp_path, WASMDROP_RESERVE_MB="4", WASMDROP_RESCAN_SEC="3600")
        with daemon.running():
            daemon.submit("input.json", fib(3))
            (shared / "filler").write_bytes(bytes(6 << 20))
            wait_until(lambda: daemon.events("intake-paused"), "the pause")
            drop(shared / "input-later.json", fib(12))
            assert "input-later.json" not in states(daemon)
            (shared / "filler").unlink()
            daemon.wait_for("input-later.json", fib(12).encode())
            daemon.until_logged("intake-resumed")


def test_slot_that_is_gone_for_good_is_discarded(tmp_path: Path) -> None:
    """After a time that can be set; until then its result waits for it."""
    daemon = Daemon(tmp_path, WASMDROP_LET_GO_SEC="0.5", TIMEOUT_SEC="1")
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(LOOP)))
    (daemon.shared / "gone").mkdir()
    with daemon.running():
        drop(daemon.shared / "gone" / "input.json", "{}")
        wait_until(lambda: states(daemon).get("gone/input.json") == "running", "the job to run")
        shutil.rmtree(daemon.shared / "gone")
        wait_until(lambda: daemon.events("result-discarded"), "the slot to be let go")
        wait_until(lambda: states(daemon)["gone/input.json"] == "discarded", "the journal")
    with daemon.running():
        pass
    assert daemon.events("ready")[-1]["resumed"] == 0


@contextlib.contextmanager
def small_disk(image: Path, point: Path) -> Iterator[None]:
    """Mount a file system that can be frozen at ``point`` for a block."""
    point.mkdir(mode=0o700)
    image.write_bytes(bytes(16 << 20))
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    with mounted("-o", "loop", str(image), str(point)):
        point.chmod(0o700)
        yield


@contextlib.contextmanager
def frozen(point: Path) -> Iterator[None]:
    """Freeze a file system for a block: writes hang."""
    subprocess.run(["fsfreeze", "--freeze", str(point)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(point)], check=True)


def test_file_system_that_hangs_delays_no_other(tmp_path: Path) -> None:
    """Its results are delivered when it goes on."""
    require_root()
    daemon = with_fib(tmp_path)
    drop(daemon.wasm / "loop.wasm", bytes(wat2wasm(LOOP)))
    slow = daemon.shared / "slow"
    with small_disk(tmp_path / "image", slow), daemon.running():
        drop(slow / "input.json", '{"module":"loop","timeout_sec":2}')
        wait_until(lambda: states(daemon).get("slow/input.json") == "running", "the job to run")
        with frozen(slow):
            wait_until(lambda: daemon.events("delivery-worker-stalled"), "the delivery to hang")
            assert daemon.submit("input.json", fib(12))["code"] == "ok"
        marker = wait_until(lambda: daemon.marker("slow/input.json"), "the marker")
        assert marker["code"] == "timeout"


def test_delivery_that_was_only_slow_is_not_repeated(tmp_path: Path) -> None:
    """Not even if it ends while the journal is being updated."""
    require_root()
    state, slow = tmp_path / "state-disk", tmp_path / "shared" / "slow"
    slow.parent.mkdir()
    daemon = with_fib(tmp_path, WASMDROP_STATE_DIR=str(state / "state"), WASMDROP_RESERVE_MB="0")
    daemon.state = state / "state"
    drop(daemon.wasm / "loop.wasm", bytes(wat2wasm(LOOP)))
    with (
        small_disk(tmp_path / "one", state),
        small_disk(tmp_path / "another", slow),
        daemon.running(),
    ):
        drop(slow / "input.json", '{"module":"loop","timeout_sec":2}')
        wait_until(lambda: states(daemon).get("slow/input.json") == "running", "the job to run")
        with frozen(state):
            with frozen(slow):
                wait_until(lambda: daemon.events("delivery-worker-stalled"), "the delivery to hang")
            wait_until(lambda: daemon.marker("slow/input.json"), "the marker")
        wait_until(lambda: daemon.events("job-finished"), "the end of the job")
        daemon.submit("slow/input-other.json", fib(12))
    assert len(daemon.lines()) == 2


def test_input_that_was_not_read_is_refused_in_the_same_words_after_a_crash(
    tmp_path: Path,
) -> None:
    """The daemon is killed while the job waits behind another one of its slot."""
    daemon = Daemon(tmp_path, WASMDROP_MAX_INPUT_MB="1", WASMDROP_MODULE_WAIT_SEC="3600")
    large = b'{"args":[12]' + b" " * (1 << 20) + b"}"
    daemon.start()
    drop(daemon.shared / "input.json", b'{"module":"late"}')
    wait_until(lambda: listed(daemon, "--state", "waiting"), "the job that waits")
    drop(daemon.shared / "input.json", large)
    wait_until(lambda: len(listed(daemon)) == 2, "the job behind it")
    daemon.kill()
    with daemon.running():
        drop(daemon.wasm / "late.wasm", bytes(wat2wasm(FIB)))
        marker = daemon.wait_for("input.json", large)
    assert f"{len(large)} bytes" in marker["message"]
    assert marker["input"]["bytes"] == len(large)
