"""Modules that take long to compile: they are reported, and delay no other."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB
from tests.support.security.binaries import _nested_loops_with_exits


def long_to_compile(tag: int) -> bytes:
    """Return a module that takes more than half a minute to compile, different for each tag.

    The limit of compilations, or the test's end, comes first.
    """
    return _nested_loops_with_exits(1000 + tag, 300_000)


#: As many compilations begin at once; as many again beside those that take long.
COMPILERS = max(1, (os.cpu_count() or 1) // 2)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give a running daemon with a long limit for compilations and none for the drain."""
    it = Daemon(tmp_path, WASMDROP_COMPILE_SEC="600", WASMDROP_DRAIN_SEC="0")
    with it.running():
        yield it


def jobs(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """Return the jobs that ``wasmdrop jobs`` lists, by slot."""
    done = subprocess.run(
        [sys.executable, "-m", "wasmdrop", "jobs", "--json"],
        env=daemon.environment,
        capture_output=True,
        check=True,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["slot"]: one for one in told}


def test_compilation_that_takes_long_is_reported_and_delays_no_other_job(daemon: Daemon) -> None:
    """In the log at its start and while it goes on, and in ``jobs`` with the reason."""
    slow = long_to_compile(1)
    drop(daemon.wasm / "slow.wasm", slow)
    drop(daemon.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
    daemon.submit("input-first.json", {"module": "fib", "entry": "fib", "args": [2]})

    drop(daemon.shared / "input-slow.json", {"module": "slow", "entry": "run", "args": [1]})
    wait_until(lambda: len(daemon.events("compilation-started")) > 1, "the compilation to begin")
    begun = daemon.events("compilation-started")[-1]
    assert (begun["bytes"], begun["seconds"]) == (len(slow), 0.0)

    # A module that is compiled already runs meanwhile, again and again.
    for number in range(5):
        daemon.submit("input-fast.json", {"module": "fib", "entry": "fib", "args": [number]})
    told = wait_until(
        lambda: (one := jobs(daemon)["input-slow.json"])["state"] == "compiling" and one,
        "the job to be compiling",
    )
    assert "is being compiled" in told["why"]
    assert f"of {len(slow) / 1e6:.1f} MB" in told["why"]
    assert told["state_seconds"] > 0

    wait_until(lambda: daemon.events("compilation-running"), "progress in the log")
    assert daemon.events("compilation-running")[-1]["module"] == begun["module"]
    assert begun["module"] not in [event["module"] for event in daemon.events("module-compiled")]


def test_new_module_does_not_wait_for_long_compilations(daemon: Daemon) -> None:
    """They give up their compile slots after a while, and go on beside it."""
    for number in range(COMPILERS):
        drop(daemon.wasm / f"slow{number}.wasm", long_to_compile(number))
        job = {"module": f"slow{number}", "entry": "run", "args": [1]}
        drop(daemon.shared / f"input-{number}.json", job)
    begun = "the compilations to begin"
    wait_until(lambda: len(daemon.events("compilation-started")) >= COMPILERS, begun)
    for number in range(3):
        body = FIB.replace("i64.const 2", f"i64.const {number + 2}")
        drop(daemon.wasm / f"new{number}.wasm", bytes(wat2wasm(body)))
        job = {"module": f"new{number}", "entry": "fib", "args": [1]}
        assert daemon.submit(f"input-new{number}.json", job)["code"] == "ok"
    assert len(daemon.until_logged("module-compiled", 3)) == 3
    assert all(daemon.marker(f"input-{number}.json") is None for number in range(COMPILERS))


def test_module_without_a_compile_slot_is_reported_as_waiting(daemon: Daemon) -> None:
    """The number of compile slots leaves cores to jobs.

    The next module waits, and the log says why.
    """
    compilers = 2 * COMPILERS
    for number in range(compilers + 1):
        drop(daemon.wasm / f"slow{number}.wasm", long_to_compile(number))
    for number in range(compilers):
        job = {"module": f"slow{number}", "entry": "run", "args": [1]}
        drop(daemon.shared / f"input-{number}.json", job)
    begun = "the first compilations to begin"
    wait_until(lambda: len(daemon.events("compilation-started")) >= compilers, begun)
    last = f"input-{compilers}.json"
    drop(daemon.shared / last, {"module": f"slow{compilers}", "entry": "run", "args": [1]})
    told = wait_until(
        lambda: (one := jobs(daemon).get(last)) and one["state"] == "compiling" and one,
        "the last job to wait",
    )
    assert told["why"] == "its module waits for the compiler, which is at work on another"


def test_module_past_the_limits_is_refused_in_the_log(tmp_path: Path) -> None:
    """With its code and reason, once, however many jobs want it."""
    daemon = Daemon(tmp_path, WASMDROP_COMPILE_SEC="0.5")
    drop(daemon.wasm / "module.wasm", long_to_compile(1))
    with daemon.running():
        for number in range(2):
            job = {"entry": "run", "args": [1]}
            assert daemon.submit(f"input-{number}.json", job)["code"] == "compile-limit"
        (refused,) = daemon.until_logged("module-refused")
        assert refused["code"] == "compile-limit"
        assert "0.5 s (WASMDROP_COMPILE_SEC)" in refused["message"]


def test_small_module_overtakes_slow_ones_of_another_directory(daemon: Daemon) -> None:
    """Also one of the same directory, and however many slow ones there are."""
    slow = 4 * COMPILERS + 4
    for number in range(slow):
        drop(daemon.wasm / f"slow{number}.wasm", long_to_compile(number))
        job = {"module": f"slow{number}", "entry": "run", "args": [1]}
        drop(daemon.shared / f"many/input-{number}.json", job)
    begun = "the slow ones to take all places that they may"
    # A late one that has all its time reports progress, not only its start.
    wait_until(lambda: len(under_way(daemon)) >= 2 * COMPILERS, begun)
    for number in range(3):
        body = FIB.replace("i64.const 2", f"i64.const {number + 2}")
        drop(daemon.wasm / f"new{number}.wasm", bytes(wat2wasm(body)))
        job = {"module": f"new{number}", "entry": "fib", "args": [1]}
        marker = daemon.submit(f"few-{number}/input.json", job)
        assert marker["code"] == "ok", marker["message"]
    assert len(daemon.until_logged("module-compiled", 3)) == 3
    assert all(daemon.marker(f"many/input-{number}.json") is None for number in range(slow))


def test_slow_module_of_another_directory_gets_a_compile_slot(daemon: Daemon) -> None:
    """One slot is kept for a directory that has none.

    It runs beside those of the first directory.
    """
    slow = 4 * COMPILERS + 4
    for number in range(slow):
        drop(daemon.wasm / f"slow{number}.wasm", long_to_compile(number))
        job = {"module": f"slow{number}", "entry": "run", "args": [1]}
        drop(daemon.shared / f"many/input-{number}.json", job)
    wait_until(lambda: len(under_way(daemon)) >= 2 * COMPILERS, "the slow ones to be under way")
    other = long_to_compile(slow)
    drop(daemon.wasm / "other.wasm", other)
    drop(daemon.shared / "few/input.json", {"module": "other", "entry": "run", "args": [1]})
    digest = hashlib.sha256(other).hexdigest()
    wait_until(lambda: digest in under_way(daemon), "the other one to be past its quick period")
    assert not daemon.events("module-compiled")


def under_way(daemon: Daemon) -> set[str]:
    """Return the modules whose compilation goes on, by the log."""
    return {event["module"] for event in daemon.events("compilation-running")}
