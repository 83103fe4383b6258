"""Modules that are called often enough to have zygotes, and kills of daemon and zygotes."""

import contextlib
import functools
import os
import signal
from pathlib import Path

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import with_fib

JOBS = 120


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
