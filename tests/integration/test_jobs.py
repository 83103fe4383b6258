"""``wasmdrop jobs`` and ``show``: jobs that wait, with the reason, and jobs that ended."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wasmtime import wat2wasm

from tests.support.commands import command, listed, on_terminal, run, wait_for_state
from tests.support.daemon import DEADLINE_SECONDS, Daemon, drop, wait_until
from tests.support.disks import fill
from tests.support.fib import FIB, with_fib

#: Runs until its time limit.
SPIN = '(module (func (export "run") (loop (br 0))))'


def test_jobs_lists_finished_jobs_with_code_message_times_and_files(daemon: Daemon) -> None:
    """The same as in their markers."""
    daemon.submit("input-good.json", {"entry": "fib", "args": [7], "id": "mine"})
    marker = daemon.submit("input-bad.json", {"entry": "nope"})
    good = wait_for_state(daemon, "good", "delivered")
    bad = wait_for_state(daemon, "input-bad.json", "delivered")
    assert (good["status"], good["code"], good["id"]) == ("succeeded", "ok", "mine")
    assert good["why"] is None
    del marker["input"]["cid"], marker["module"]["cid"]  # the journal does not have them
    for key in ("job", "slot", "status", "code", "message", "attempt", "input", "module"):
        assert bad[key] == marker[key], key
    for key in ("dropped_at", "finished_at"):
        assert bad[key] == marker[key], key
    assert (good["input_is_kept"], bad["input_is_kept"]) == (False, True)
    assert listed(daemon, "--code", "failed") == [bad]
    assert listed(daemon, "--code", "ok", "--slot", "input-good.json") == [good]
    assert listed(daemon, "--slot", str(daemon.shared / "input-good.json")) == [good]
    assert listed(daemon, "--limit", "1", "--slot", "bad", "--slot", "good") == [bad]
    assert listed(daemon, "--state", "open", "--slot", "bad", "--slot", "good") == []
    shown = run(daemon, "show", marker["job"][-6:])
    assert f"input {marker['input']['path']}, " in shown.stdout
    assert f"message {marker['message']}\n" in shown.stdout
    assert json.loads(run(daemon, "show", "--json", marker["job"]).stdout) == bad


def test_jobs_into_a_pipe_prints_one_field_per_column(daemon: Daemon) -> None:
    """For cut and grep: no header, and each job is one line."""
    marker = daemon.submit("input-bad.json", {"entry": "two\nlines\tand\x1b[2J"})
    wait_for_state(daemon, "bad", "delivered")
    done = run(daemon, "jobs", "--slot", "bad")
    (line,) = done.stdout.splitlines()
    job, state, code, slot, attempts, seconds, text = line.split("\t")
    assert (job, state, code) == (marker["job"], "delivered", "entry-not-found")
    assert (slot, attempts) == ("input-bad.json", "0")
    assert float(seconds) >= 0
    assert text.isprintable()


def test_jobs_with_a_message_of_a_guest_prints_no_forged_line(daemon: Daemon) -> None:
    """A function may have any name, and its backtrace has it; further lines are indented."""
    drop(
        daemon.wasm / "forging.wasm",
        bytes(
            wat2wasm(
                '(module (func $"f\\0acode ok\\0a\\1b[2J" unreachable)'
                '(func (export "run") (call 0)))'
            )
        ),
    )
    marker = daemon.submit("input-forging.json", {"module": "forging", "entry": "run"})
    assert "\ncode ok\n" in marker["message"]
    wait_for_state(daemon, "forging", "delivered")
    shown = run(daemon, "show", marker["job"]).stdout
    assert [line for line in shown.split("\n") if line.startswith("code ")] == ["code trap"]
    assert "\n  code ok\n" in shown
    assert all(line.isprintable() for line in shown.split("\n"))


def test_jobs_that_wait_for_a_module_or_another_job_say_so(tmp_path: Path) -> None:
    """With the module, or the job before."""
    daemon = Daemon(
        tmp_path, WASMDROP_MODULE_WAIT_SEC="60", WASMDROP_DRAIN_SEC="0", TIMEOUT_SEC="60"
    )
    drop(daemon.wasm / "spin.wasm", bytes(wat2wasm(SPIN)))
    with daemon.running():
        drop(daemon.shared / "input-a.json", '{"module":"later"}')
        first = wait_for_state(daemon, "a", "waiting")
        assert str(daemon.wasm / "later.wasm") in first["why"]
        assert first["state_seconds"] > 0
        drop(daemon.shared / "input-a.json", '{"module":"later","entry":"x"}')
        second = wait_for_state(daemon, "a", "queued")
        assert first["job"] in second["why"]
        drop(daemon.shared / "input-b.json", '{"module":"spin"}')
        running = wait_for_state(daemon, "b", "running")
        assert (running["attempt"], running["code"]) == (1, None)
        assert [one["job"] for one in listed(daemon, "--state", "open")] == [
            one["job"] for one in (first, second, running)
        ]
        shown = run(daemon, "show", second["job"]).stdout
        assert f"why waits in its slot behind job {first['job']}\n" in shown


def test_jobs_whose_delivery_waits_for_storage_say_why(tmp_path: Path, small: Path) -> None:
    """While the daemon retries, after it has stopped, and no longer once it is delivered."""
    daemon = with_fib(tmp_path, WASMDROP_DRAIN_SEC="0.1")
    with daemon.running():
        drop(small / "input.json", '{"entry":"fib","args":[12]}')
        wait_until(lambda: daemon.marker("small/input.json"), "the first result")
        fill(small)
        (small / "input.json").write_text('{"entry":"fib","args":[13]}')

        def stuck() -> dict[str, Any] | None:
            found = listed(daemon, "--state", "executed")
            return found[0] if found and "No space left on device" in found[0]["why"] else None

        job = wait_until(stuck, "the reason")
        assert (job["code"], job["slot"]) == ("ok", "small/input.json")
        assert "its results wait for storage" in run(daemon, "show", job["job"]).stdout
        refused = run(daemon, "retry", job["job"])
        assert refused.returncode == 2
        assert "it is executed, so it needs no retry" in refused.stderr
    (found,) = listed(daemon, "--state", "open")
    assert found["why"] == job["why"]
    (small / "filler").unlink()
    with daemon.running():
        done = wait_for_state(daemon, "small/input.json", "delivered")
    assert done["code"] == "ok"
    assert listed(daemon, "--state", "open") == []


@contextlib.contextmanager
def following(daemon: Daemon, *words: str) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Run ``jobs --follow``; give a function that reads its lines up to one in a state."""
    process = subprocess.Popen(
        [sys.executable, "-m", "wasmdrop", "jobs", "--follow", "--json", *words],
        env=daemon.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = iter(process.stdout)

    def read_up_to(state: str) -> list[dict[str, Any]]:
        found = []
        for line in lines:
            found.append(json.loads(line))
            if found[-1]["state"] == state:
                return found
        raise AssertionError(found)

    try:
        yield read_up_to
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        process.stdout.close()


def test_jobs_follow_prints_each_change(tmp_path: Path) -> None:
    """After the present state; across a restart of the daemon too; of other slots nothing."""
    daemon = with_fib(tmp_path)
    with contextlib.ExitStack() as stack:
        with daemon.running():
            first = daemon.submit("input-a.json", {"entry": "fib", "args": [1]})["job"]
            wait_for_state(daemon, "a", "delivered")
            read_up_to = stack.enter_context(following(daemon, "--slot", "a"))
            assert [line["job"] for line in read_up_to("delivered")] == [first]
            daemon.submit("input-b.json", {"entry": "fib", "args": [2]})
            drop(daemon.shared / "input-a.json", '{"module":"later"}')
            changes = read_up_to("waiting")
        drop(daemon.wasm / "later.wasm", b"no module")
        with daemon.running():
            changes += read_up_to("delivered")
    assert {change["slot"] for change in changes} == {"input-a.json"}
    assert len({change["job"] for change in changes} | {first}) == 2
    times = [change["changed_at"] for change in changes]
    assert times == sorted(times)
    assert changes[-1]["code"] == "invalid-module"


def test_jobs_follow_ends_with_its_reader(tmp_path: Path) -> None:
    """At once, and not at the next change of a job, which may be hours later."""
    daemon = with_fib(tmp_path)
    with daemon.running():
        daemon.submit("input-a.json", {"entry": "fib", "args": [1]})
        wait_for_state(daemon, "a", "delivered")
    process = subprocess.Popen(
        command("jobs", "--follow"), env=daemon.environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert b"input-a.json" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(DEADLINE_SECONDS) == 141


def test_jobs_follow_goes_on_with_a_new_journal(tmp_path: Path) -> None:
    """It waits while there is none."""
    daemon = with_fib(tmp_path)
    with daemon.running():
        daemon.submit("input-a.json", {"entry": "fib", "args": [1]})
        wait_for_state(daemon, "a", "delivered")
    with following(daemon, "--slot", "a", "--slot", "b") as read_up_to:
        first = read_up_to("delivered")
        shutil.rmtree(daemon.state)
        with daemon.running():
            daemon.submit("input-b.json", {"entry": "fib", "args": [2]})
            changes = read_up_to("delivered")
    assert [each["slot"] for each in first] == ["input-a.json"]
    assert {each["slot"] for each in changes} == {"input-b.json"}


def test_jobs_on_a_terminal_prints_a_table_without_foreign_escapes(daemon: Daemon) -> None:
    """Text of a producer does nothing to the terminal."""
    marker = daemon.submit("input-bad.json", {"entry": "\x1b]0;owned\x07[red]"})
    wait_for_state(daemon, "bad", "delivered")
    for words in (("jobs",), ("show", marker["job"])):
        status, written = on_terminal(command(*words), daemon.environment | {"COLUMNS": "160"})
        assert status == 0
        assert marker["job"] in written
        assert "entry-not-found" in written
        assert "\x1b]0" not in written
        assert "\\u001b]0;owned\\u0007[red]" in written


def test_jobs_without_a_readable_journal_prints_one_line(tmp_path: Path) -> None:
    """No journal, one of another version or user, a damaged one, no such job."""
    daemon = Daemon(tmp_path)

    def refusal(status: int, *words: str) -> str:
        done = run(daemon, *words)
        assert (done.returncode, done.stdout) == (status, "")
        (line,) = done.stderr.splitlines()
        return line

    assert "there is no journal; expected" in refusal(2, "jobs")
    with daemon.running():
        assert refusal(2, "show", "x1").startswith("wasmdrop: 'x1': no such job in ")
    journal = daemon.state / "journal.sqlite"
    assert listed(daemon, "--state", "open") == []
    assert sorted(path.name for path in daemon.state.glob("journal*")) == ["journal.sqlite"]
    user = os.geteuid()
    if user == 0:
        daemon.prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    journal.chmod(0)
    assert f"user {user} may not read it" in refusal(2, "jobs")
    daemon.state.chmod(0)
    assert f"can't be read by user {user}: Permission denied" in refusal(2, "jobs")
    daemon.state.chmod(0o700)
    journal.chmod(0o600)
    connection = sqlite3.connect(journal)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "found version 99; use the wasmdrop that wrote it" in refusal(2, "jobs")
    journal.write_bytes(b"no database at all" * 100)
    assert "the journal can't be read: file is not a database" in refusal(3, "jobs")


def test_jobs_after_a_kill_reads_the_journal(tmp_path: Path) -> None:
    """The last rows are in SQLite's log, and count."""
    daemon = Daemon(tmp_path)
    drop(daemon.wasm / "spin.wasm", bytes(wat2wasm(SPIN)))
    daemon.start()
    drop(daemon.shared / "input.json", '{"module":"spin"}')
    wait_for_state(daemon, "input.json", "running")
    daemon.kill()
    (found,) = listed(daemon)
    assert found["state"] == "running"


def test_finished_jobs_leave_the_journal_after_their_retention(tmp_path: Path) -> None:
    """A new module still reruns its jobs; no existing file runs again."""
    daemon = Daemon(tmp_path, WASMDROP_KEEP_DAYS="0", WASMDROP_RESCAN_SEC="0.2")
    daemon.environment["WASMDROP_MODULE_WAIT_SEC"] = "0.1"
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    with daemon.running():
        for number in range(5):
            name = f"input-{number}.json"
            daemon.submit(name, {"entry": "fib", "args": [number]})
            if number:
                (daemon.shared / name).unlink()
        missing = daemon.submit("input-m.json", {"module": "later"})
        assert missing["code"] == "module-missing"
        wait_until(lambda: not listed(daemon), "the pruning")

        def paths() -> list[str]:
            connection = sqlite3.connect(daemon.state / "journal.sqlite")
            rows = connection.execute("SELECT path FROM taken ORDER BY path").fetchall()
            connection.close()
            return [Path(os.fsdecode(path)).name for (path,) in rows]

        wait_until(
            lambda: paths() == ["input-0.json", "input-m.json", "module.wasm"], "the forgetting"
        )
    finished = len(daemon.events("job-finished"))
    with daemon.running():
        # Its removal was noticed, so it is new; the scan that finds it has read everything.
        daemon.submit("input-1.json", {"entry": "fib", "args": [1]})
        drop(daemon.wasm / "later.wasm", bytes(wat2wasm(FIB)))
        wait_until(
            lambda: (daemon.marker("input-m.json") or {}).get("job") != missing["job"],
            "the slot to run again",
        )
    assert len(daemon.events("job-finished")) == finished + 2


def test_journal_that_is_damaged_does_not_stop_the_start(tmp_path: Path) -> None:
    """It is set aside with a warning, and new jobs run."""
    daemon = with_fib(tmp_path)
    with daemon.running():
        daemon.submit("input.json", {"entry": "fib", "args": [7]})
    journal = daemon.state / "journal.sqlite"
    with journal.open("r+b") as file:
        file.truncate(journal.stat().st_size // 2)
    with daemon.running():
        (event,) = daemon.events("journal-set-aside")
        assert event["level"] == "warning"
        assert Path(event["now"]).exists()
        daemon.submit("input-new.json", {"entry": "fib", "args": [8]})
        assert daemon.result("input-new.json")["results"] == [21]


def test_journal_damaged_while_running_ends_the_daemon_and_loses_nothing(tmp_path: Path) -> None:
    """The daemon can promise nothing any more, says so, and the next start takes the drop."""
    daemon = with_fib(tmp_path)
    daemon.start()
    daemon.submit("input.json", {"entry": "fib", "args": [7]})
    journal = daemon.state / "journal.sqlite"
    wait_until(lambda: states_in(journal) == ["delivered"], "the job to be closed")
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        # The daemon's memory of the journal is void when the log begins anew.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with journal.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (journal.stat().st_size - 4096))
    drop(daemon.shared / "input-new.json", b'{"entry": "fib", "args": [8]}')
    assert daemon.process is not None
    assert daemon.process.wait(DEADLINE_SECONDS) == 3
    assert f"the journal can't be used any more: {journal}: " in daemon.log_text()
    with daemon.running():
        wait_until(lambda: daemon.marker("input-new.json"), "the marker")
        assert daemon.result("input-new.json")["results"] == [21]


def states_in(journal: Path) -> list[str]:
    """Return the states of all jobs."""
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        return [state for (state,) in connection.execute("SELECT state FROM jobs")]
