"""Modules that are called often enough to have zygotes, and kills of daemon and zygotes."""

import contextlib
import functools
import json
import os
import re
import signal
import urllib.request
from pathlib import Path

import pytest
from benchmarks.workloads import sleeping

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import with_fib
from tests.support.require import require_native_program

JOBS = 120


@pytest.fixture(autouse=True)
def _native_program() -> None:
    """Require the program that zygotes run."""
    require_native_program()


def _children_of(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _zygotes(daemon: Daemon) -> list[int]:
    """Return the processes below the fork server that have children themselves."""
    return [pid for pid in _children_of(daemon.fork_server()) if _children_of(pid)]


def test_zygote_that_is_killed_loses_and_repeats_no_job(daemon: Daemon) -> None:
    """Each job has one result, which is right, and one line on standard output."""
    for n in range(3):
        daemon.submit("input-warm.json", {"entry": "fib", "args": [5 + n]})
    (first,) = wait_until(lambda: _zygotes(daemon), "a zygote")
    inputs = {f"input-{n}.json": {"entry": "fib", "args": [n % 20]} for n in range(JOBS)}
    for n, (name, content) in enumerate(inputs.items()):
        drop(daemon.shared / name, content)
        if n == JOBS // 2:
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGKILL)
    for n, name in enumerate(inputs):
        marker = wait_until(functools.partial(daemon.marker, name), name)
        assert marker["code"] == "ok", marker
        assert daemon.result(name)["results"] == [_fib(n % 20)]
    # The line comes after the marker is durable, and so a moment after it appears.
    wait_until(lambda: len(daemon.lines()) >= len(inputs) + 3, "the last line")
    assert len(daemon.lines()) == len(inputs) + 3
    daemon.until_logged("zygote-exited")


def test_zygote_asked_for_more_children_than_descriptors_may_be_in_flight_goes_on(
    tmp_path: Path,
) -> None:
    """It waits until the daemon has received those of the first."""
    workers, jobs = 64, 160
    daemon = with_fib(tmp_path, WASMDROP_WORKERS=str(workers), WASMDROP_HTTP="127.0.0.1:0")
    with daemon.running():
        assert daemon.process is not None
        for n in range(3):
            daemon.submit("input-warm.json", {"entry": "fib", "args": [5 + n]})
        (zygote,) = wait_until(lambda: _zygotes(daemon), "a zygote")
        names = [f"input-{n}.json" for n in range(jobs)]
        for n, name in enumerate(names):
            content = json.dumps({"entry": "fib", "args": [n % 20]})
            (daemon.shared / f".{name}").write_text(content)
        os.kill(zygote, signal.SIGSTOP)
        # Nothing but renames, because a zygote that is silent for five seconds is replaced.
        for name in names:
            (daemon.shared / f".{name}").rename(daemon.shared / name)
        # All its idle children have had a job, and each worker waits for another one.
        wait_until(
            lambda: not any(map(_lives, _children_of(zygote))) and _running(daemon) == workers,
            "requests for children",
        )
        os.kill(daemon.process.pid, signal.SIGSTOP)
        os.kill(zygote, signal.SIGCONT)
        wait_until(
            lambda: sum(map(_lives, _children_of(zygote))) > workers // 4 or not _lives(zygote),
            "children whose descriptors the daemon has not received",
        )
        os.kill(daemon.process.pid, signal.SIGCONT)
        for n, name in enumerate(names):
            marker = wait_until(functools.partial(daemon.marker, name), name)
            assert (marker["code"], marker["attempt"]) == ("ok", 1)
            assert daemon.result(name)["results"] == [_fib(n % 20)]
        assert daemon.events("zygote-exited") == []


def test_jobs_with_threads_run_at_a_time_in_all_workers(tmp_path: Path) -> None:
    """A WASI command that sleeps has a thread per core and one more."""
    workers = 128
    daemon = Daemon(tmp_path, WASMDROP_WORKERS=str(workers))
    (daemon.wasm / "sleep.wasm").write_bytes(sleeping(5.0).module)
    with daemon.running():
        daemon.submit("input-warm.json", {"module": "sleep"})
        names = [f"input-{n}.json" for n in range(workers)]
        for name in names:
            drop(daemon.shared / name, {"module": "sleep"})
        for name in names:
            marker = wait_until(functools.partial(daemon.marker, name), name)
            assert (marker["code"], marker["attempt"]) == ("ok", 1)
        assert daemon.events("zygote-exited") == []


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in {b"Z", b"X"}


def _running(daemon: Daemon) -> int:
    address = daemon.events("http-listening")[-1]["address"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        found = re.search(r"^wasmdrop_jobs_running (\d+)", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _fib(n: int) -> int:
    before, last = 0, 1
    for _ in range(n):
        before, last = last, before + last
    return before


def test_zygote_ends_when_the_daemon_is_killed(tmp_path: Path) -> None:
    """With a job that runs in a child of it: all end by themselves."""
    daemon = with_fib(tmp_path)
    daemon.start()
    for n in range(3):
        daemon.submit("input-warm.json", {"entry": "fib", "args": [5 + n]})
    (zygote,) = wait_until(lambda: _zygotes(daemon), "a zygote")
    drop(daemon.shared / "input.json", {"entry": "fib", "args": [60]})
    wait_until(lambda: any(_has_worked(pid) for pid in _children_of(zygote)), "the job to run")
    processes = daemon.children()
    assert zygote in processes
    daemon.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), "all to end")


def _has_worked(pid: int) -> bool:
    try:
        ticks = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[11]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(ticks) > 20
