"""``wasmdrop jobs`` and ``show``: what waits, and why; what ended, and how; from another process."""

import contextlib
import json
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from tests.acceptance.conftest import FIB
from tests.acceptance.daemon import Daemon, drop, wait_until
from tests.acceptance.test_storage import fill, small

__all__ = ["small"]

#: Runs until its time limit.
SPIN = '(module (func (export "run") (loop (br 0))))'


def run(daemon: Daemon, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the daemon's environment; standard output is no terminal."""
    return subprocess.run(
        [*daemon.prefix, sys.executable, "-m", "wasmdrop", *words],
        env=daemon.environment | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def listed(daemon: Daemon, *words: str) -> list[dict[str, Any]]:
    """Return what ``jobs`` says, one object for each."""
    done = run(daemon, "jobs", "--json", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def wait_for_state(daemon: Daemon, slot: str, state: str) -> dict[str, Any]:
    """Wait until the journal has a job of that slot in that state; return it."""

    def look() -> dict[str, Any] | None:
        found = listed(daemon, "--slot", slot, "--state", state)
        return found[-1] if found else None

    return wait_until(look, f"a job of {slot} that is {state}")


def on_terminal(daemon: Daemon, *words: str) -> str:
    """Run a command on a terminal of its own; return all that it wrote there."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "wasmdrop", *words],
        env=daemon.environment | {"TERM": "xterm-256color", "COLUMNS": "160"},
        stdout=its,
        stderr=its,
    )
    os.close(its)
    written = b""
    # An error is Linux's way to say that the other side has closed.
    with contextlib.suppress(OSError):
        while data := os.read(ours, 4096):
            written += data
    os.close(ours)
    assert process.wait(60) == 0
    return written.decode()


def test_finished_jobs_are_told_with_code_message_times_and_files(daemon: Daemon) -> None:
    """The same as in their markers."""
    daemon.submit("input-good.json", {"entry": "fib", "args": [7], "id": "mine"})
    marker = daemon.submit("input-bad.json", {"entry": "nope"})
    good = wait_for_state(daemon, "good", "delivered")
    bad = wait_for_state(daemon, "input-bad.json", "delivered")
    assert (good["status"], good["code"], good["id"]) == ("succeeded", "ok", "mine")
    assert good["why"] is None
    for key in ("job", "slot", "status", "code", "message", "attempt", "input", "module"):
        assert bad[key] == marker[key], key
    for key in ("dropped_at", "finished_at"):
        assert bad[key] == marker[key], key
    assert (good["input_is_kept"], bad["input_is_kept"]) == (False, True)
    assert listed(daemon, "--code", "failed") == [bad]
    assert listed(daemon, "--code", "ok", "--slot", "input-good.json") == [good]
    assert listed(daemon, "--slot", str(daemon.shared / "input-good.json")) == [good]
    assert listed(daemon, "--limit", "1", "--slot", "bad", "--slot", "good") == [bad]
    assert listed(daemon, "--state", "open") == []
    shown = run(daemon, "show", marker["job"][-6:])
    assert f"input {marker['input']['path']}, " in shown.stdout
    assert f"message {marker['message']}\n" in shown.stdout
    assert json.loads(run(daemon, "show", "--json", marker["job"]).stdout) == bad


def test_piped_lines_have_a_field_for_each_thing(daemon: Daemon) -> None:
    """For cut and grep: no header, nothing broken over lines."""
    marker = daemon.submit("input-bad.json", {"entry": "two\nlines\tand\x1b[2J"})
    wait_for_state(daemon, "bad", "delivered")
    done = run(daemon, "jobs", "--slot", "bad")
    (line,) = done.stdout.splitlines()
    job, state, code, slot, attempts, seconds, text = line.split("\t")
    assert (job, state, code) == (marker["job"], "delivered", "entry-not-found")
    assert (slot, attempts) == ("input-bad.json", "0")
    assert float(seconds) >= 0
    assert text.isprintable()


def test_what_waits_for_a_module_or_its_turn_says_so(tmp_path: Path) -> None:
    """And for which module, behind which job."""
    daemon = Daemon(tmp_path, WASMDROP_MODULE_WAIT_SEC="60", WASMDROP_WORKERS="1")
    drop(daemon.wasm / "spin.wasm", bytes(wat2wasm(SPIN)))
    with daemon.running():
        drop(daemon.shared / "input-a.json", '{"module":"later"}')
        first = wait_for_state(daemon, "a", "waiting")
        assert str(daemon.wasm / "later.wasm") in first["why"]
        assert first["state_seconds"] > 0
        drop(daemon.shared / "input-a.json", '{"module":"later","entry":"x"}')
        second = wait_for_state(daemon, "a", "queued")
        assert second["why"].endswith(first["job"])
        drop(daemon.shared / "input-b.json", '{"module":"spin","timeout_sec":20}')
        running = wait_for_state(daemon, "b", "running")
        assert (running["attempt"], running["code"]) == (1, None)
        assert [one["job"] for one in listed(daemon, "--state", "open")] == [
            one["job"] for one in (first, second, running)
        ]
        shown = run(daemon, "show", second["job"]).stdout
        assert f"why its turn in its slot comes after {first['job']}\n" in shown
        drop(daemon.wasm / "later.wasm", bytes(wat2wasm(FIB)))
        daemon.process.send_signal(signal.SIGCONT) if daemon.process else None


def test_a_delivery_that_waits_for_storage_says_why(tmp_path: Path, small: Path) -> None:
    """While the daemon tries, after it has stopped, and no longer once it is delivered."""
    daemon = Daemon(tmp_path, WASMDROP_DRAIN_SEC="0.1")
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    with daemon.running():
        drop(small / "input.json", '{"entry":"fib","args":[12]}')
        wait_until(lambda: daemon.marker("small/input.json"), "the first result")
        fill(small)
        (small / "input.json").write_text('{"entry":"fib","args":[13]}')

        def stuck() -> dict[str, Any] | None:
            (found,) = listed(daemon, "--state", "executed") or [None]
            return found if found and "No space left on device" in found["why"] else None

        job = wait_until(stuck, "the reason")
        assert (job["code"], job["slot"]) == ("ok", "small/input.json")
        assert "its results wait for storage" in run(daemon, "show", job["job"]).stdout
        refused = run(daemon, "retry", job["job"])
        assert refused.returncode == 2
        assert "it is executed and goes on by itself" in refused.stderr
    (found,) = listed(daemon, "--state", "open")
    assert found["why"] == job["why"]
    (small / "filler").unlink()
    with daemon.running():
        done = wait_for_state(daemon, "small/input.json", "delivered")
    assert done["code"] == "ok"
    assert listed(daemon, "--state", "open") == []


def test_follow_shows_each_change_as_it_comes(daemon: Daemon) -> None:
    """After what was there already, in order, over a restart of the daemon too."""
    daemon.submit("input.json", {"entry": "fib", "args": [1]})
    process = subprocess.Popen(
        [sys.executable, "-m", "wasmdrop", "jobs", "--follow", "--json", "--slot", "input"],
        env=daemon.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        there = json.loads(process.stdout.readline())
        assert there["slot"] == "input.json"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        process.stdout.close()


@pytest.fixture
def followed(daemon: Daemon) -> Iterator["subprocess.Popen[str]"]:
    """Give a ``jobs --follow`` of one slot that has seen what was there before."""
    daemon.submit("input-seen.json", {"entry": "fib", "args": [1]})
    wait_for_state(daemon, "seen", "delivered")
    command = [sys.executable, "-m", "wasmdrop", "jobs", "--follow", "--json", "--slot", "seen"]
    process = subprocess.Popen(
        command, env=daemon.environment, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["state"] == "delivered"
    yield process
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.stdout.close()
