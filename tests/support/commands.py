"""``wasmdrop`` commands, run as a user runs them."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon, environment, wait_until


def command(*words: str) -> list[str]:
    """Return the command line of ``wasmdrop`` with these words."""
    return [sys.executable, "-m", "wasmdrop", *words]


def run(daemon: Daemon, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the daemon's environment; standard output is no terminal."""
    return subprocess.run(
        [*daemon.prefix, *command(*words)],
        env=daemon.environment | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def listed(daemon: Daemon, *words: str) -> list[dict[str, Any]]:
    """Return the jobs that ``wasmdrop jobs`` lists."""
    done = run(daemon, "jobs", "--json", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def wait_for_state(daemon: Daemon, slot: str, state: str) -> dict[str, Any]:
    """Wait until the journal has a job of that slot in that state; return it."""

    def look() -> dict[str, Any] | None:
        found = listed(daemon, "--slot", slot, "--state", state)
        return found[-1] if found else None

    return wait_until(look, f"a job of {slot} that is {state}")


def inspect(file: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``wasmdrop inspect``; standard output is no terminal."""
    return subprocess.run(
        command("inspect", *words, str(file)),
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def on_terminal(line: Sequence[str], variables: Mapping[str, str]) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its exit status and its output."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        line,
        env={**variables, "TERM": "xterm-256color"},
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    written = b""
    # Linux reports that the other side has closed as an error.
    with contextlib.suppress(OSError):
        while data := os.read(ours, 4096):
            written += data
    os.close(ours)
    return process.wait(60), written.decode()
