"""Producers cancel jobs: they remove an input before its job begins, or drop a cancel file."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.commands import listed, wait_for_state
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB
from tests.support.inotify import kernel_setting
from tests.support.require import require_root
from wasmdrop.client import submit
from wasmdrop.protocol.outcome import Code

LOOP = '(module (func (export "loop") (loop br 0)))'
FIB_12 = '{"module":"fib","entry":"fib","args":[12]}'


def new_daemon(base: Path, **variables: str) -> Daemon:
    """Return a daemon, not started, with one worker."""
    daemon = Daemon(
        base,
        **{
            "WASMDROP_WORKERS": "1",
            "WASMDROP_SETTLE_SEC": "0.05",
            "WASMDROP_RESCAN_SEC": "3600",
            "WASMDROP_DRAIN_SEC": "0",
            "TIMEOUT_SEC": "3600",
            **variables,
        },
    )
    drop(daemon.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
    drop(daemon.wasm / "loop.wasm", bytes(wat2wasm(LOOP)))
    return daemon


def occupy(daemon: Daemon) -> None:
    """Keep the worker busy, so that all other jobs wait."""
    drop(daemon.shared / "busy/input.json", '{"module":"loop","entry":"loop"}')
    wait_for_state(daemon, "busy/input.json", "running")


def release(daemon: Daemon) -> None:
    """Let the other jobs run."""
    (daemon.shared / "busy/input.json.cancel").touch()


def take(daemon: Daemon, *names: str) -> None:
    """Drop inputs and wait until each has one more job."""
    before = len(listed(daemon, "--limit", "0"))
    for name in names:
        drop(daemon.shared / name, FIB_12)
    wait_for_jobs(daemon, before + len(names))


def wait_for_jobs(daemon: Daemon, count: int) -> None:
    """Wait until the journal has so many jobs."""
    wait_until(lambda: len(listed(daemon, "--limit", "0")) == count, f"{count} jobs")


def ends(daemon: Daemon, name: str) -> str:
    """Wait for the marker of a slot; return its code."""
    marker = wait_until(lambda: daemon.marker(name), f"the marker of {name}")
    return str(marker["code"])


@contextlib.contextmanager
def busy(base: Path, **variables: str) -> Iterator[Daemon]:
    """Run a daemon whose worker is busy."""
    daemon = new_daemon(base, **variables)
    with daemon.running():
        occupy(daemon)
        yield daemon


def test_removed_inputs_cancel_jobs_that_have_not_begun(tmp_path: Path) -> None:
    """A running job goes on. A replaced input is another drop, and cancels nothing."""
    with busy(tmp_path) as daemon:
        shared = daemon.shared
        names = ["input-gone.json", "input-moved.json", "input-replaced.json", "input-edited.json"]
        names += ["below/a/input.json", "renamed/a/input.json"]
        take(daemon, *names)
        (shared / "busy/input.json").unlink()
        (shared / "input-gone.json").unlink()
        (shared / "input-moved.json").rename(shared / "elsewhere")
        drop(shared / "input-replaced.json", FIB_12)
        (shared / "input-edited.json").rename(shared / "input-edited.json~")
        (shared / "input-edited.json").write_text(FIB_12)
        shutil.rmtree(shared / "below")
        (shared / "renamed").rename(shared / "another")
        for name in ("input-gone.json", "input-moved.json"):
            assert ends(daemon, name) == "cancelled"
            message = (daemon.marker(name) or {})["message"]
            assert message == "its input was removed before it began"
        wait_until(lambda: len(daemon.events("job-cancelled")) == 4, "the removed directories")
        assert [job["slot"] for job in listed(daemon, "--state", "running")] == ["busy/input.json"]
        release(daemon)
        codes = [ends(daemon, name) for name in (*names[2:4], "another/a/input.json")]
        assert codes == ["ok", "ok", "ok"]
        assert ends(daemon, "busy/input.json") == "cancelled"
    cancelled = sorted(event["slot"] for event in daemon.events("job-cancelled"))
    assert cancelled == sorted([*names[:2], *names[4:], "busy/input.json"])


def test_removed_input_that_returns_is_a_new_drop(tmp_path: Path) -> None:
    """Unless it returns before the settle time is over."""
    with busy(tmp_path) as daemon:
        path = daemon.shared / "input-a.json"
        take(daemon, path.name)
        aside = path.rename(daemon.shared / "aside")
        assert ends(daemon, path.name) == "cancelled"
        aside.rename(path)
        wait_for_jobs(daemon, 3)
        release(daemon)
        # While the marker is replaced there is none.
        wait_until(
            lambda: (daemon.marker(path.name) or {"code": ""})["code"] == "ok", "the second job"
        )


def test_removed_input_cancels_what_waits_behind_the_running_job_of_its_slot(
    tmp_path: Path,
) -> None:
    """The running job goes on."""
    with busy(tmp_path) as daemon:
        path = daemon.shared / "busy/input.json"
        take(daemon, "busy/input.json")
        path.unlink()
        (cancelled,) = daemon.until_logged("job-cancelled")
        states = {job["job"]: job["state"] for job in listed(daemon)}
        assert states.pop(cancelled["job"]) == "queued"
        assert list(states.values()) == ["running"]
        release(daemon)
        daemon.until_logged("job-cancelled", 2)
        assert ends(daemon, "busy/input.json") == "cancelled"


def test_removed_input_of_a_job_that_waits_for_its_module_cancels_it(tmp_path: Path) -> None:
    """At once, not when the module comes."""
    with new_daemon(tmp_path, WASMDROP_MODULE_WAIT_SEC="3600").running() as daemon:
        path = daemon.shared / "input-a.json"
        drop(path, '{"module":"late","entry":"fib","args":[12]}')
        wait_for_state(daemon, path.name, "waiting")
        path.unlink()
        assert ends(daemon, path.name) == "cancelled"
        drop(daemon.wasm / "late.wasm", bytes(wat2wasm(FIB)))
        assert daemon.submit("input-b.json", FIB_12)["code"] == "ok"


def test_removed_input_of_a_job_that_a_module_caused_cancels_it(tmp_path: Path) -> None:
    """A job without an input is cancelled by no removal."""
    daemon = new_daemon(
        tmp_path, WASMDROP_MODULE_WAIT_SEC="0.05", WASM_ENTRY="fib", WASM_ARGS="[12]"
    )
    with daemon.running():
        missing = daemon.submit("input-a.json", '{"module":"late","entry":"fib","args":[12]}')
        assert missing["code"] == "module-missing"
        occupy(daemon)
        drop(daemon.wasm / "late.wasm", bytes(wat2wasm(FIB)))
        wait_for_jobs(daemon, 3)
        (daemon.shared / "input-a.json").unlink()
        wait_until(lambda: daemon.events("job-cancelled"), "the cancellation")
        release(daemon)
        wait_until(
            lambda: (daemon.marker("input-a.json") or missing)["code"] == "cancelled", "its end"
        )


def test_root_slot_and_ready_file_removal_of_the_input_alone_cancels(tmp_path: Path) -> None:
    """Also if INPUT_PATH names the input. Removing the ready file cancels nothing."""
    input_path = tmp_path / "own" / "job.txt"
    input_path.parent.mkdir()
    variables = {"INPUT_PATH": str(input_path), "WASMDROP_READY_SUFFIX": ".ready"}
    daemon = new_daemon(tmp_path, **variables, OUTPUT_PATH=str(tmp_path / "own" / "out.txt"))
    with daemon.running():
        ready = daemon.shared / "busy/input.json.ready"
        ready.parent.mkdir()
        ready.touch()
        occupy(daemon)
        paths = [daemon.shared / "input-a.json", daemon.shared / "input-b.json", input_path]
        for path in paths:
            path.with_name(f"{path.name}.ready").touch()
            drop(path, FIB_12)
            os.utime(path.with_name(f"{path.name}.ready"))
        wait_for_jobs(daemon, 4)
        paths[0].with_name("input-a.json.ready").unlink()
        for path in paths[1:]:
            path.unlink()
        wait_until(lambda: len(daemon.events("job-cancelled")) == 2, "the removals")
        release(daemon)
        assert ends(daemon, "input-a.json") == "ok"
        assert ends(daemon, "input-b.json") == "cancelled"


@pytest.mark.parametrize("is_killed", [True, False])
def test_input_removed_while_the_daemon_is_down_cancels_its_job(
    tmp_path: Path, is_killed: bool
) -> None:
    """The next daemon notices it. A cancel file counts, too."""
    daemon = new_daemon(tmp_path)
    daemon.start()
    occupy(daemon)
    take(daemon, "input-a.json", "input-b.json", "input-c.json")
    if is_killed:
        daemon.kill()
    else:
        assert daemon.stop() == 0
    (daemon.shared / "input-a.json").unlink()
    (daemon.shared / "input-b.json.cancel").touch()
    with daemon.running():
        assert ends(daemon, "input-a.json") == "cancelled"
        assert ends(daemon, "input-b.json") == "cancelled"
        release(daemon)
        assert ends(daemon, "input-c.json") == "ok"


def test_polling_daemon_notices_removals_and_not_an_unmounted_volume(tmp_path: Path) -> None:
    """The check that finds the one has looked at the other."""
    require_root()
    variables = {"WASMDROP_WATCH": "poll", "WASMDROP_POLL_SEC": "0.1"}
    with busy(tmp_path, WASMDROP_RESCAN_SEC="0.2", **variables) as daemon:
        volume = daemon.shared / "volume"
        volume.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(volume)]
        subprocess.run(mount, check=True)
        take(daemon, "volume/input.json", "input-a.json", "input-b.json")
        subprocess.run(["umount", str(volume)], check=True)
        for name in ("input-a.json", "input-b.json"):
            (daemon.shared / name).unlink()
            assert ends(daemon, name) == "cancelled"
        assert not listed(daemon, "--slot", "volume/input.json")[0]["code"]


def test_removals_whose_events_are_lost_are_noticed(tmp_path: Path) -> None:
    """Without waiting for the next regular check, which would come in an hour."""
    require_root()
    daemon = new_daemon(tmp_path)
    with kernel_setting("max_queued_events", 16):
        daemon.start()
    occupy(daemon)
    names = [f"input-{number}.json" for number in range(40)]
    take(daemon, *names)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    for name in names:
        (daemon.shared / name).unlink()
    daemon.process.send_signal(signal.SIGCONT)
    daemon.until_logged("events-lost")
    daemon.until_logged("job-cancelled", len(names))
    assert daemon.stop() == 0


def test_removal_of_a_directory_with_thousands_of_waiting_jobs_delays_no_other(
    tmp_path: Path,
) -> None:
    """All are cancelled."""
    with busy(tmp_path) as daemon:
        directory = daemon.shared / "many"
        directory.mkdir()
        for number in range(2000):
            drop(directory / f"input-{number}.json", FIB_12)
        wait_for_jobs(daemon, 2001)
        shutil.rmtree(directory.rename(tmp_path / "elsewhere"))
        release(daemon)
        assert daemon.submit("input-x.json", FIB_12)["code"] == "ok"
        daemon.until_logged("job-cancelled", 2001)


def test_cancel_file_ends_running_and_waiting_jobs_of_its_slot(tmp_path: Path) -> None:
    """The next drop runs, beside the same cancel file."""
    with busy(tmp_path) as daemon:
        take(daemon, "input-a.json", "input-b.json")
        drop(daemon.shared / "busy/input.json", '{"module":"loop","entry":"loop","id":"second"}')
        wait_for_jobs(daemon, 4)
        (daemon.shared / "input-a.json.cancel").write_text("not read")
        assert ends(daemon, "input-a.json") == "cancelled"
        assert (daemon.marker("input-a.json") or {})["message"] == (
            "a cancel file was dropped beside its input"
        )
        release(daemon)
        assert ends(daemon, "input-b.json") == "ok"
        jobs = listed(daemon, "--slot", "busy/input.json")
        assert [job["code"] for job in jobs] == ["cancelled", "cancelled"]
        again = '{"module":"fib","entry":"fib","args":[13]}'
        assert daemon.submit("busy/input.json", again)["code"] == "ok"
        assert daemon.submit("input-a.json", again)["code"] == "ok"
        assert (daemon.shared / "input-a.json.cancel").exists()


def test_client_cancels_a_running_job(tmp_path: Path) -> None:
    """And removes the cancel file with the other files."""
    with new_daemon(tmp_path).running() as daemon:
        with submit(daemon.shared, {"module": "loop", "entry": "loop"}) as job:
            wait_for_state(daemon, job.slot, "running")
            job.cancel()
            result = job.result(timeout_seconds=60)
            assert result.code is Code.CANCELLED
        assert sorted(path.name for path in daemon.shared.iterdir()) == [".wasmdrop.lock"]
