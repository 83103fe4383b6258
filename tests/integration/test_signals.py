"""Signals to the daemon, to its child processes, and to all of them together."""

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from wasmdrop.system import signals

LOOP = '(module (func (export "run") (loop br 0)))'

COUNT = """(module (func (export "run") (result i32) (local i32)
  (loop (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1)))
                           (i32.const 100000000))))
  (local.get 0)))"""

#: Long enough that a signal finds the job running, also on a slow machine.
JOB_SECONDS = "4"

#: Signals that end neither the daemon nor a child process.
HARMLESS = [number for number in signals.OTHERS if number < signal.SIGRTMIN]
HARMLESS += [signal.SIGRTMIN, signal.SIGRTMIN + 5, signal.SIGRTMAX, signal.SIGPIPE, signal.SIGXFSZ]


def with_loop(base: Path, **variables: str) -> Daemon:
    """Return a daemon, not started, whose default module runs until its limit."""
    variables = {"WASMDROP_DRAIN_SEC": "600", "TIMEOUT_SEC": JOB_SECONDS} | variables
    daemon = Daemon(base, **variables)
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(LOOP)))
    return daemon


def start_job(daemon: Daemon) -> None:
    """Drop a job and wait until it runs."""
    drop(daemon.shared / "input.json", "{}")
    wait_until(lambda: _has_running_child(daemon), "the job to run")


def _has_running_child(daemon: Daemon) -> bool:
    """Return whether a child has used processor time: idle ones have not."""
    ticks = (_ticks(pid) for pid in daemon.children() if pid not in daemon.delivery_workers())
    return any(used > os.sysconf("SC_CLK_TCK") // 2 for used in ticks)


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[11])


def send(daemon: Daemon, number: int) -> None:
    """Send a signal to the daemon's own process."""
    assert daemon.process is not None
    daemon.process.send_signal(number)


def send_to_all(daemon: Daemon, number: int) -> None:
    """Send a signal to the daemon and everything below it, as ``systemctl kill`` does."""
    assert daemon.process is not None
    for pid in (daemon.process.pid, *daemon.children()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def assert_drained(daemon: Daemon, number: int) -> None:
    """Wait for the end of a daemon that drains."""
    assert daemon.process is not None
    assert daemon.process.wait(60) == 0, daemon.log_text()
    (stopping,) = daemon.events("stopping")
    assert stopping["signal"] == signal.Signals(number).name
    assert daemon.events("stopped")
    assert not daemon.events("drain-skipped")
    marker = daemon.marker("input.json")
    assert marker is not None
    assert (marker["code"], marker["attempt"]) == ("timeout", 1)
    assert not daemon.events("fork-server-died")
    assert not daemon.events("delivery-worker-died")


@pytest.mark.parametrize("number", signals.STOP, ids=signals.name_of)
def test_stop_signal_to_the_daemon_drains(tmp_path: Path, number: int) -> None:
    """A running job ends by its own limit, is delivered, and the exit status is 0."""
    daemon = with_loop(tmp_path).start()
    start_job(daemon)
    send(daemon, number)
    assert_drained(daemon, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stop_signal_to_every_process_drains(tmp_path: Path, number: int) -> None:
    """Child processes leave the decision to the daemon: the job is neither killed nor repeated."""
    daemon = with_loop(tmp_path).start()
    start_job(daemon)
    send_to_all(daemon, number)
    assert_drained(daemon, number)


def test_sighup_that_comes_twice_drains(tmp_path: Path) -> None:
    """A shell and the kernel both send one when a terminal goes away."""
    daemon = with_loop(tmp_path).start()
    start_job(daemon)
    send(daemon, signal.SIGHUP)
    wait_until(lambda: daemon.events("stopping"), "the first one")
    send(daemon, signal.SIGHUP)
    assert_drained(daemon, signal.SIGHUP)


def test_sigquit_stops_at_once_and_loses_nothing(tmp_path: Path) -> None:
    """The running job ends, its attempt not counted, and reruns at the next start."""
    daemon = with_loop(tmp_path, TIMEOUT_SEC="600").start()
    start_job(daemon)
    send_to_all(daemon, signal.SIGQUIT)
    assert_stopped_at_once(daemon)
    daemon.environment["TIMEOUT_SEC"] = "0.2"
    with daemon.running():
        marker = wait_until(lambda: daemon.marker("input.json"), "the marker")
    assert (marker["code"], marker["attempt"]) == ("timeout", 1)


def assert_stopped_at_once(daemon: Daemon) -> None:
    """Wait for the end of a daemon that SIGQUIT stopped while its job ran."""
    assert daemon.process is not None
    assert daemon.process.wait(60) == 0, daemon.log_text()
    assert [event["signal"] for event in daemon.events("stopping")] == ["SIGQUIT"]
    assert [event["signal"] for event in daemon.events("drain-skipped")] == ["SIGQUIT"]
    assert daemon.marker("input.json") is None


def test_signals_without_a_meaning_end_neither_daemon_nor_job(tmp_path: Path) -> None:
    """They are logged by name, and jobs go on."""
    daemon = with_loop(tmp_path)
    with daemon.running():
        start_job(daemon)
        helpers = {*daemon.fork_servers(), *daemon.delivery_workers()}
        for number in HARMLESS:
            send_to_all(daemon, number)
        marker = wait_until(lambda: daemon.marker("input.json"), "the marker")
        assert (marker["code"], marker["attempt"]) == ("timeout", 1)
        assert helpers == {*daemon.fork_servers(), *daemon.delivery_workers()}
    logged = {event["signal"] for event in daemon.events("signal-ignored")}
    silent = {signal.SIGPIPE, signal.SIGXFSZ}
    assert logged == {signals.name_of(number) for number in HARMLESS if number not in silent}


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM])
def test_signal_ignored_at_the_start_stays_ignored(tmp_path: Path, number: int) -> None:
    """As nohup(1) sets SIGHUP for its command."""
    daemon = with_loop(tmp_path)
    name = signals.name_of(number).removeprefix("SIG")
    daemon.prefix = ("sh", "-c", f'trap "" {name}; exec "$@"', "sh")
    with daemon.running():
        send(daemon, number)
        drop(daemon.shared / "input.json", '{"timeout_sec": 0.2}')
        wait_until(lambda: daemon.marker("input.json"), "the marker")
    assert not daemon.events("signal-ignored")
    (stopping,) = daemon.events("stopping")
    assert stopping["signal"] == "SIGTERM"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_background_command_of_a_script_can_be_stopped(tmp_path: Path, number: int) -> None:
    """A shell without job control starts it with these ignored."""
    daemon = with_loop(tmp_path)
    daemon.prefix = ("sh", "-c", 'trap "" INT QUIT; exec "$@"', "sh")
    daemon.start()
    send(daemon, number)
    assert daemon.process is not None
    assert daemon.process.wait(60) == 0, daemon.log_text()


def test_stopped_and_continued_daemon_loses_nothing(tmp_path: Path) -> None:
    """A drop is found afterwards, and a job that ended meanwhile has its own result.

    SIGTSTP (Ctrl-Z) stops a process as SIGSTOP does, but not in an orphaned process group.
    """
    daemon = with_loop(tmp_path)
    drop(daemon.wasm / "count.wasm", bytes(wat2wasm(COUNT)))
    with daemon.running():
        drop(daemon.shared / "input.json", '{"module": "count"}')
        wait_until(lambda: _has_begun(daemon), "the job to begin")
        send(daemon, signal.SIGSTOP)
        assert daemon.process is not None
        pid = daemon.process.pid
        wait_until(lambda: _state(pid) == "T", "the daemon to stop")
        drop(daemon.shared / "input-other.json", '{"module": "count"}')
        # The job's limit passes on the clock of the kernel, which no test can set.
        time.sleep(float(JOB_SECONDS) + 1)
        send(daemon, signal.SIGCONT)
        for name in ("input.json", "input-other.json"):
            marker = wait_until(lambda name=name: daemon.marker(name), "the marker")  # type: ignore[misc]
            assert marker["code"] == "ok"
    assert not daemon.events("part-silent")


def _has_begun(daemon: Daemon) -> bool:
    with contextlib.closing(
        sqlite3.connect(f"file:{daemon.state}/journal.sqlite?mode=ro", uri=True)
    ) as journal:
        found = journal.execute("SELECT 1 FROM jobs WHERE state NOT IN ('queued', 'waiting')")
        return found.fetchone() is not None


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextlib.contextmanager
def on_a_terminal(daemon: Daemon, *prefix: str) -> Iterator[int]:
    """Start the daemon as the foreground command of a terminal; give the terminal's other end."""
    ours, theirs = os.openpty()
    daemon.stdin = theirs
    daemon.prefix = ("setsid", "--ctty", *prefix)
    try:
        daemon.start()
        os.close(theirs)
        theirs = -1
        yield ours
    finally:
        if theirs >= 0:
            os.close(theirs)
        with contextlib.suppress(OSError):
            os.close(ours)


def test_terminal_that_goes_away_drains(tmp_path: Path) -> None:
    """The kernel sends SIGHUP to the foreground process group."""
    daemon = with_loop(tmp_path)
    with on_a_terminal(daemon) as terminal:
        start_job(daemon)
        os.close(terminal)
        assert_drained(daemon, signal.SIGHUP)


def test_interrupt_key_drains(tmp_path: Path) -> None:
    """Ctrl-C goes to the whole foreground process group, and to no job."""
    daemon = with_loop(tmp_path)
    with on_a_terminal(daemon) as terminal:
        start_job(daemon)
        os.write(terminal, b"\x03")
        assert_drained(daemon, signal.SIGINT)


def test_quit_key_stops_at_once(tmp_path: Path) -> None:
    """Ctrl-backslash leaves no core, and the job reruns."""
    daemon = with_loop(tmp_path, TIMEOUT_SEC="600")
    with on_a_terminal(daemon) as terminal:
        start_job(daemon)
        os.write(terminal, b"\x1c")
        assert_stopped_at_once(daemon)


def test_terminal_that_goes_away_leaves_a_daemon_under_nohup(tmp_path: Path) -> None:
    """It continues to run jobs."""
    daemon = with_loop(tmp_path)
    with on_a_terminal(daemon, "nohup") as terminal:
        os.close(terminal)
        daemon.submit("input.json", '{"timeout_sec": 0.2}')
        assert not daemon.events("stopping")
        assert daemon.stop() == 0
