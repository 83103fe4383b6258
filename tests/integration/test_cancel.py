"""``wasmdrop cancel``: jobs in every state, with and without a daemon."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from tests.support.commands import command, listed, run, wait_for_state
from tests.support.daemon import DEADLINE_SECONDS, Daemon, drop, wait_until
from tests.support.disks import fill
from tests.support.guests import running_in
from tests.support.outcomes import failure
from tests.support.require import require_users
from tests.support.security.binaries import _nested_loops_with_exits
from tests.support.users import DAEMON, as_user, shared_base
from wasmdrop.cli.exit_status import CANCELLED

#: Runs until it is killed; the second one is a program that also writes output and files.
LOOP = '(module (func (export "run") (loop br 0)))'
PROGRAM = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\05\\00\\00\\00") (data (i32.const 16) "hello")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))
    (drop (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 5) (i32.const 1)
      (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 68)))
    (loop br 0)))"""

MESSAGE = "cancelled with `wasmdrop cancel`"


def with_loop(base: Path, **variables: str) -> Daemon:
    """Return a daemon, not started, with modules that run until they are killed."""
    variables = {
        "TIMEOUT_SEC": "1000",
        "WASMDROP_MODULE_WAIT_SEC": "1000",
        "WASMDROP_WORKERS": "1",
    } | variables
    daemon = Daemon(base, **variables)
    drop(daemon.wasm / "loop.wasm", bytes(wat2wasm(LOOP)))
    drop(daemon.wasm / "program.wasm", bytes(wat2wasm(PROGRAM)))
    return daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give a running daemon."""
    with with_loop(tmp_path).running() as it:
        yield it


def dropped(daemon: Daemon, slot: str, state: str, module: str = "loop") -> str:
    """Drop a job that never ends; wait until it is in that state, and return its id."""
    drop(daemon.shared / f"input-{slot}.json", {"module": module})
    return str(wait_for_state(daemon, slot, state)["job"])


def cancel(daemon: Daemon, *jobs: str) -> None:
    """Cancel jobs."""
    done = run(daemon, "cancel", *jobs)
    assert (done.returncode, done.stdout.split()) == (0, list(jobs)), done.stderr


def await_no_requests(daemon: Daemon) -> None:
    """Wait until the daemon has removed all requests: it does so after it has recorded them."""
    requests = daemon.state / "cancel"
    wait_until(lambda: not list(requests.iterdir()), "the requests to be removed")


def open_state(daemon: Daemon, job: str) -> dict[str, Any]:
    """Return an open job as `wasmdrop show` does."""
    shown: dict[str, Any] = json.loads(run(daemon, "show", "--json", job).stdout)
    return shown


@pytest.mark.parametrize(("guest", "module"), [("native", "program"), ("python", "loop")])
def test_cancel_of_a_running_job_kills_its_process(tmp_path: Path, guest: str, module: str) -> None:
    """No output is published, and nothing of the job stays in the state directory."""
    with running_in(guest, with_loop(tmp_path)) as daemon:
        job = dropped(daemon, "a", "running", module)
        busy = wait_until(lambda: _busy(daemon), "the job to use its processor")
        cancel(daemon, job)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in busy), "its end")
        assert failure(daemon, "input-a.json", "cancelled") == MESSAGE
        marker = daemon.marker("input-a.json")
        assert marker is not None
        assert sorted(marker["files"]) == ["result-a.json", "result-a.txt"]
        assert (marker["job"], marker["attempt"], marker["output"]) == (job, 1, None)
        assert marker["seconds"]["run"] > 0
        assert list((daemon.state / "jobs").glob("*/*")) == []
        line = daemon.result_path("input-a.json", ".json").read_text().strip()
        wait_until(lambda: line in daemon.lines(), "its line on standard output")
        # The worker is free again.
        job = dropped(daemon, "b", "running", module)
        cancel(daemon, job)


def _busy(daemon: Daemon) -> list[int]:
    """Return the children that have used half a second of processor time."""
    found = []
    for pid in daemon.children():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        is_helper = pid in (*daemon.delivery_workers(), *daemon.fork_servers())
        if not is_helper and int(fields[11]) > os.sysconf("SC_CLK_TCK") // 2:
            found.append(pid)
    return found


def test_cancel_of_waiting_jobs_does_not_wait_for_running_ones(daemon: Daemon) -> None:
    """Jobs behind hundreds of others, behind one in the slot, and without a module."""
    running = dropped(daemon, "first", "running")
    without = dropped(daemon, "without", "waiting", module="none")
    for number in range(150):
        drop(daemon.shared / f"input-{number}.json", {"module": "loop"})
    behind = dropped(daemon, "last", "queued")
    drop(daemon.shared / "input-first.json", {"module": "loop", "args": []})
    second = str(wait_for_state(daemon, "first", "queued")["job"])
    cancel(daemon, behind, without)
    for slot in ("last", "without"):
        assert failure(daemon, f"input-{slot}.json", "cancelled") == MESSAGE
    done = run(daemon, "cancel", second)
    assert (done.returncode, done.stdout) == (0, f"{second}\n")
    assert f"its results follow those of job {running} in its slot" in done.stderr
    shown = open_state(daemon, second)
    assert (shown["state"], shown["why"]) == ("queued", f"is being cancelled: {MESSAGE}")
    assert open_state(daemon, running)["state"] == "running"
    cancel(daemon, running)
    wait_until(lambda: (daemon.marker("input-first.json") or {}).get("job") == second, "its turn")
    assert failure(daemon, "input-first.json", "cancelled") == MESSAGE
    names = [str(one["job"]) for one in listed(daemon, "--state", "open", "--limit", "0")]
    assert len(names) == 150
    cancel(daemon, *names)
    wait_until(lambda: not listed(daemon, "--state", "open"), "the end of all jobs")


def test_cancel_of_a_compiling_job_does_not_wait_for_the_compilation(tmp_path: Path) -> None:
    """Another job of the same module goes on waiting for it."""
    with with_loop(tmp_path, WASMDROP_COMPILE_SEC="600", WASMDROP_DRAIN_SEC="0").running() as it:
        # More than half a minute, which no test awaits.
        drop(it.wasm / "slow.wasm", _nested_loops_with_exits(1001, 300_000))
        job = dropped(it, "a", "compiling", module="slow")
        other = dropped(it, "b", "compiling", module="slow")
        cancel(it, job)
        assert failure(it, "input-a.json", "cancelled") == MESSAGE
        assert open_state(it, other)["state"] == "compiling"


def test_cancel_of_a_job_that_ended_says_how(daemon: Daemon) -> None:
    """Status 1, and 2 for an unknown one; a job that was cancelled before is as wanted."""
    drop(daemon.shared / "input-a.json", {"module": "loop", "entry": "none"})
    ended = str(wait_for_state(daemon, "a", "delivered")["job"])
    done = run(daemon, "cancel", ended)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"job {ended}: it had already ended: entry-not-found: " in done.stderr
    running = dropped(daemon, "b", "running")
    done = run(daemon, "cancel", "nonesuch", running, ended)
    assert (done.returncode, done.stdout) == (2, f"{running}\n")
    assert "'nonesuch': no such job" in done.stderr
    cancel(daemon, running)
    await_no_requests(daemon)


def test_cancel_of_a_job_whose_results_wait_for_storage_is_too_late(
    tmp_path: Path, small: Path
) -> None:
    """It has run; its results are delivered when there is room."""
    with with_loop(tmp_path).running() as daemon:
        (small / "input.json").write_bytes(b" " * 40)
        fill(small)
        # Rewritten in place: there is no room for another file.
        (small / "input.json").write_bytes(b'{"module": "loop", "entry": "none"}     ')
        job = str(wait_for_state(daemon, "small/input.json", "executed")["job"])
        done = run(daemon, "cancel", job)
        assert (done.returncode, done.stdout) == (1, "")
        assert "it had already ended: entry-not-found: " in done.stderr
        (small / "filler").unlink()
        failure(daemon, "small/input.json", "entry-not-found")


@pytest.mark.parametrize("is_killed", [True, False])
def test_cancel_without_a_daemon_takes_place_at_the_next_start(
    tmp_path: Path, is_killed: bool
) -> None:
    """The running job does not run again, and the waiting one never does."""
    daemon = with_loop(tmp_path, WASMDROP_DRAIN_SEC="0").start()
    running, waiting = dropped(daemon, "a", "running"), dropped(daemon, "b", "queued")
    if is_killed:
        daemon.kill()
    else:
        assert daemon.stop() == 0
    done = run(daemon, "cancel", running, waiting)
    assert (done.returncode, done.stdout.split()) == (0, [running, waiting])
    told = [
        f"wasmdrop: job {one}: no daemon is running; the next one cancels the job if it had not"
        " ended"
        for one in (running, waiting)
    ]
    assert done.stderr.splitlines() == told
    with daemon.running():
        for slot in ("a", "b"):
            assert failure(daemon, f"input-{slot}.json", "cancelled") == MESSAGE
        await_no_requests(daemon)
        attempts = [(daemon.marker(f"input-{slot}.json") or {})["attempt"] for slot in ("a", "b")]
        assert attempts == [int(is_killed), 0]


def test_cancel_while_the_daemon_stops_ends_the_job_that_it_waits_for(tmp_path: Path) -> None:
    """It need not wait for the rest of its grace period."""
    daemon = with_loop(tmp_path, WASMDROP_DRAIN_SEC="1000").start()
    job = dropped(daemon, "a", "running")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    daemon.until_logged("stopping")
    cancel(daemon, job)
    assert daemon.process.wait(DEADLINE_SECONDS) == 0
    assert failure(daemon, "input-a.json", "cancelled") == MESSAGE


def test_submit_of_a_job_that_is_cancelled_ends_with_its_status(daemon: Daemon) -> None:
    """As a program that SIGTERM ended; the line is printed as for any failure."""
    waiting = subprocess.Popen(
        command("submit", "--wait", "1000", "--module", "loop", "--name", "a"),
        env=daemon.environment,
        stdout=subprocess.PIPE,
    )
    cancel(daemon, str(wait_for_state(daemon, "a", "running")["job"]))
    out, _ = waiting.communicate(timeout=DEADLINE_SECONDS)
    assert waiting.returncode == CANCELLED == 143
    assert json.loads(out)["error"] == {"code": "cancelled", "message": MESSAGE}


def test_cancel_by_another_user_is_refused(tmp_path: Path) -> None:
    """The state directory is private: there is no request, and the job runs on."""
    require_users()
    with with_loop(tmp_path).running() as daemon:
        job = dropped(daemon, "a", "running")
        daemon.prefix = as_user(DAEMON)
        done = run(daemon, "cancel", job)
        daemon.prefix = ()
        assert (done.returncode, done.stdout) == (2, "")
        assert "the journal is for root and for the user that runs the daemon" in done.stderr
        await_no_requests(daemon)
        cancel(daemon, job)


def test_cancel_by_root_works_with_a_daemon_of_another_user() -> None:
    """Also if root makes the directory of the requests: the daemon can remove them."""
    require_users()
    with shared_base() as base:
        daemon = with_loop(base)
        for path in (base, *base.rglob("*")):
            os.chown(path, DAEMON, DAEMON)
        daemon.environment.pop("WASMDROP_JOB_USER")
        daemon.prefix = as_user(DAEMON)
        daemon.start()
        first = dropped(daemon, "a", "running")
        daemon.kill()
        daemon.prefix = ()
        (daemon.state / "cancel").rmdir()
        cancel(daemon, first)
        daemon.prefix = as_user(DAEMON)
        with daemon.running():
            failure(daemon, "input-a.json", "cancelled")
            await_no_requests(daemon)
            second = dropped(daemon, "b", "running")
            daemon.prefix = ()
            cancel(daemon, second)
            await_no_requests(daemon)


def test_retry_of_a_cancelled_job_runs_its_input_again(daemon: Daemon) -> None:
    """As a new job."""
    first = dropped(daemon, "a", "running")
    cancel(daemon, first)
    wait_for_state(daemon, "a", "delivered")
    assert run(daemon, "retry", first).returncode == 0
    second = str(wait_for_state(daemon, "a", "running")["job"])
    assert second != first
    cancel(daemon, second)
