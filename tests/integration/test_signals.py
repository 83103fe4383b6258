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

#: Signals that stop the daemon; of the real-time ones three.
STOPPING = [number for number in signals.STOP if number < signal.SIGRTMIN]
STOPPING += [signal.SIGRTMIN, signal.SIGRTMIN + 5, signal.SIGRTMAX]

#: Signals that end neither the daemon nor a child process.
HARMLESS = [signals.RELOAD, signals.STATUS, signal.SIGPIPE, signal.SIGXFSZ]


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
    assert stopping["signal"] == signals.name_of(number)
    assert daemon.events("stopped")
    assert not daemon.events("drain-skipped")
    marker = daemon.marker("input.json")
    assert marker is not None
    assert (marker["code"], marker["attempt"]) == ("timeout", 1)
    assert not daemon.events("fork-server-died")
    assert not daemon.events("delivery-worker-died")


@pytest.mark.parametrize("number", STOPPING, ids=signals.name_of)
def test_stop_signal_to_the_daemon_drains(tmp_path: Path, number: int) -> None:
    """With exit status 0; the test below has a job that runs."""
    daemon = with_loop(tmp_path).start()
    send(daemon, number)
    assert daemon.process is not None
    assert daemon.process.wait(60) == 0, daemon.log_text()
    assert [event["signal"] for event in daemon.events("stopping")] == [signals.name_of(number)]
    assert not daemon.events("drain-skipped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_stop_signal_to_every_process_drains(tmp_path: Path, number: int) -> None:
    """The running job is neither killed nor repeated: it ends by its own limit, with a result."""
    daemon = with_loop(tmp_path).start()
    start_job(daemon)
    send_to_all(daemon, number)
    assert_drained(daemon, number)


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


def test_harmless_signals_to_every_process_end_neither_daemon_nor_job(tmp_path: Path) -> None:
    """Jobs and helpers go on; the daemon reloads its settings and logs its status."""
    daemon = with_loop(tmp_path)
    with daemon.running():
        start_job(daemon)
        helpers = {*daemon.fork_servers(), *daemon.delivery_workers()}
        for number in HARMLESS:
            send_to_all(daemon, number)
        marker = wait_until(lambda: daemon.marker("input.json"), "the marker")
        assert (marker["code"], marker["attempt"]) == ("timeout", 1)
        assert helpers == {*daemon.fork_servers(), *daemon.delivery_workers()}
    assert len(daemon.events("settings-reloaded")) == 1
    assert len(daemon.events("status")) == 1


def test_stop_signals_to_helpers_end_neither_them_nor_the_job(tmp_path: Path) -> None:
    """The daemon decides when they end."""
    daemon = with_loop(tmp_path)
    with daemon.running():
        start_job(daemon)
        helpers = {*daemon.fork_servers(), *daemon.delivery_workers()}
        for pid in daemon.children():
            for number in STOPPING:
                if number != signal.SIGXCPU:  # ends a job at its limit
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
        marker = wait_until(lambda: daemon.marker("input.json"), "the marker")
        assert (marker["code"], marker["attempt"]) == ("timeout", 1)
        assert helpers == {*daemon.fork_servers(), *daemon.delivery_workers()}


def test_sigusr1_logs_the_running_job_and_the_threads(tmp_path: Path) -> None:
    """Also while a job runs; nothing else happens."""
    daemon = with_loop(tmp_path)
    with daemon.running():
        start_job(daemon)
        send(daemon, signal.SIGUSR1)
        (status,) = wait_until(lambda: daemon.events("status"), "the status")
        wait_until(lambda: daemon.marker("input.json"), "the marker")
    assert (status["state"], status["running"], status["queued"]) == ("ready", 1, 0)
    (job,) = status["jobs"]
    assert (job["slot"], job["state"], job["attempt"]) == ("input.json", "running", 1)
    assert any(name.startswith("MainThread") for name in status["stacks"])


def with_file(base: Path, text: str) -> tuple[Daemon, Path]:
    """Return a daemon as :func:`with_loop` does, with a configuration file, and the file."""
    file = base / "config.toml"
    file.write_text(text)
    daemon = with_loop(base, WASMDROP_CONFIG=str(file))
    del daemon.environment["TIMEOUT_SEC"]
    return daemon, file


def test_sighup_reloads_the_file_and_says_what_needs_a_restart(tmp_path: Path) -> None:
    """A running job keeps its limit, the next one has the new one."""
    daemon, file = with_file(tmp_path, f"timeout_sec = {JOB_SECONDS}\nworkers = 2\n")
    with daemon.running():
        start_job(daemon)
        file.write_text("timeout_sec = 0.2\nworkers = 3\n")
        send(daemon, signal.SIGHUP)
        (reloaded,) = wait_until(lambda: daemon.events("settings-reloaded"), "the reload")
        drop(daemon.shared / "input-next.json", "{}")
        for name in ("input.json", "input-next.json"):
            wait_until(lambda name=name: daemon.marker(name), "the marker")  # type: ignore[misc]
    reasons = {event["slot"]: event["reason"] for event in daemon.events("job-finished")}
    assert f" {JOB_SECONDS} s" in reasons["input.json"]
    assert " 0.2 s" in reasons["input-next.json"]
    assert reloaded["file"] == str(file)
    assert reloaded["before"] == {"timeout_sec": JOB_SECONDS}
    assert reloaded["after"] == {"timeout_sec": "0.2"}
    assert [event["settings"] for event in daemon.events("settings-need-restart")] == [["workers"]]


def test_sighup_with_a_wrong_file_changes_nothing(tmp_path: Path) -> None:
    """One event says what is wrong, and jobs go on."""
    daemon, file = with_file(tmp_path, "timeout_sec = 0.3\n")
    daemon.start()
    file.write_text('attempts = 7\ntimeout_sec = "soon"\n')
    send(daemon, signal.SIGHUP)
    (refused,) = wait_until(lambda: daemon.events("reload-refused"), "the refusal")
    daemon.submit("input.json", "{}")
    assert daemon.stop() == 0
    assert str(file) in refused["error"]
    assert "timeout_sec" in refused["error"]
    assert not daemon.events("settings-reloaded")
    assert " 0.3 s" in daemon.events("job-finished")[0]["reason"]


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
    assert not daemon.events("settings-reloaded")
    assert not daemon.events("status")
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
def on_a_terminal(daemon: Daemon, *prefix: str, log_on_terminal: bool = False) -> Iterator[int]:
    """Start the daemon as the foreground command of a terminal; give the terminal's other end."""
    ours, theirs = os.openpty()
    daemon.stdin = theirs
    daemon.prefix = ("setsid", "--ctty", *prefix)
    try:
        if log_on_terminal:
            daemon.prefix += ("sh", "-c", 'exec "$@" 2>&0', "sh")
            daemon.launch()
            read_until(ours, b"ready")
        else:
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


def test_sighup_on_a_terminal_that_is_there_reloads(tmp_path: Path) -> None:
    """The terminal stays open, so that the signal has another sender."""
    daemon = with_loop(tmp_path)
    with on_a_terminal(daemon):
        send(daemon, signal.SIGHUP)
        wait_until(lambda: daemon.events("settings-reloaded"), "the reload")
        daemon.submit("input.json", '{"timeout_sec": 0.2}')
        assert daemon.stop() == 0


def test_interrupt_key_drains(tmp_path: Path) -> None:
    """Ctrl-C goes to the whole foreground process group, and to no job."""
    daemon = with_loop(tmp_path)
    with on_a_terminal(daemon) as terminal:
        start_job(daemon)
        os.write(terminal, b"\x03")
        assert_drained(daemon, signal.SIGINT)


def test_interrupt_key_is_answered_and_a_second_one_stops_at_once(tmp_path: Path) -> None:
    """The answer tells what the daemon waits for."""
    daemon = with_loop(tmp_path, TIMEOUT_SEC="600")
    with on_a_terminal(daemon, log_on_terminal=True) as terminal:
        drop(daemon.shared / "input.json", "{}")
        wait_until(lambda: _has_running_child(daemon), "the job to run")
        os.write(terminal, b"\x03")
        shown = read_until(terminal, b"drain_sec")  # of the event `stopping`
        assert b"stopping: 1 job has 600 s to end; press Ctrl-C again to stop now" in shown
        time.sleep(0.2)  # a repetition within 0.1 s is the same request
        os.write(terminal, b"\x03")
        read_until(terminal, b"drain-skipped")
        assert daemon.process is not None
        assert daemon.process.wait(60) == 0


def read_until(terminal: int, wanted: bytes) -> bytes:
    """Read from a terminal until it has shown that text."""
    shown = b""
    while wanted not in shown:
        shown += os.read(terminal, 4096)
    return shown


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
