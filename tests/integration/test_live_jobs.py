"""``wasmdrop jobs --follow`` on a terminal: a live table."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from tests.support.commands import command, wait_for_state
from tests.support.daemon import Daemon, drop
from tests.support.fib import FIB
from tests.support.terminal import on_terminal_of

FOLLOW = command("jobs", "--follow")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give a running daemon without a default module, which would be a job of its own."""
    with with_one_module(tmp_path).running() as it:
        yield it


def with_one_module(base: Path) -> Daemon:
    """Return a daemon that has ``fib``."""
    it = Daemon(base, WASMDROP_MODULE_WAIT_SEC="600")
    drop(it.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
    return it


def fib(number: int) -> dict[str, Any]:
    """Return an input."""
    return {"module": "fib", "entry": "fib", "args": [number]}


def lines_of(screen: str) -> list[str]:
    """Return the lines of a screen that are not empty."""
    return [line.rstrip() for line in screen.splitlines() if line.strip()]


def test_live_table_shows_jobs_as_they_change(daemon: Daemon) -> None:
    """Open jobs first, then the latest finished one; Ctrl-C leaves the last table."""
    daemon.submit("input-a.json", fib(1))
    wait_for_state(daemon, "a", "delivered")
    with on_terminal_of(FOLLOW, daemon.environment, columns=120) as terminal:
        terminal.wait_for("input-a.json", "open jobs: 0")
        drop(daemon.shared / "input-b.json", '{"module":"late\\u001b[2J"}')
        screen = terminal.wait_for("input-b.json", "waiting", "open jobs: 1")
        headings, first, second, *_ = lines_of(screen)
        assert headings.split() == ["job", "state", "slot", "time"]
        assert ("input-b.json" in first, "input-a.json" in second) == (True, True)
        (daemon.shared / "input-b.json").unlink()
        terminal.wait_for("cancelled", "open jobs: 0")
        status, left = terminal.end(signal.SIGINT)
    assert status == 130
    _, first, second, foot = lines_of(left)
    assert ("cancelled" in first, "ok" in second) == (True, True)
    assert foot == "open jobs: 0; Ctrl-C ends"
    assert b"\x1b[2J" not in terminal.written


def test_live_table_fits_the_window_and_follows_its_size(daemon: Daemon) -> None:
    """In a small window finished jobs keep a part of it; whole ids need a wide one."""
    for number in range(8):
        daemon.submit(f"input-{number}.json", fib(number))
    job = wait_for_state(daemon, "7", "delivered")["job"]
    for number in range(8):
        drop(daemon.shared / f"input-late-{number}.json", '{"module":"late"}')
    wait_for_state(daemon, "late-7", "waiting")
    with on_terminal_of(FOLLOW, daemon.environment, columns=80, rows=8) as terminal:
        screen = lines_of(terminal.wait_for("open jobs: 8"))
        assert len(screen) == 8
        assert all(len(line) <= 80 for line in screen)
        assert [sum(word in line for line in screen) for word in ("waiting", " ok ")] == [4, 2]
        assert job not in "".join(screen)
        terminal.resize(140, 30)
        screen = lines_of(terminal.wait_for(job, "open jobs: 8"))
        assert [sum(word in line for line in screen) for word in ("waiting", " ok ")] == [8, 8]
        assert terminal.end(signal.SIGTERM)[0] == 128 + signal.SIGTERM


def test_live_table_follows_a_restart_and_a_new_journal(tmp_path: Path) -> None:
    """And says what is wrong meanwhile."""
    daemon = with_one_module(tmp_path)
    with daemon.running():
        daemon.submit("input-a.json", fib(1))
        wait_for_state(daemon, "a", "delivered")
    with on_terminal_of(FOLLOW, daemon.environment, columns=200) as terminal:
        terminal.wait_for("input-a.json")
        with daemon.running():
            daemon.submit("input-b.json", fib(2))
            terminal.wait_for("input-a.json", "input-b.json")
        shutil.rmtree(daemon.state)
        terminal.wait_for("input-a.json", "there is no journal")
        with daemon.running():
            daemon.submit("input-c.json", fib(3))
            screen = terminal.wait_for("input-c.json", "open jobs: 0")
        assert "input-b.json" not in screen
        assert terminal.end(signal.SIGINT)[0] == 130
