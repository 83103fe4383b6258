"""``wasmdrop status``: one screen about a daemon, which may run or not."""

import fcntl
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import pytest
from wasmtime import wat2wasm

from tests.support.commands import command, on_terminal, run, wait_for_state
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.disks import fill, hanging_disk
from tests.support.fib import FIB
from tests.support.require import require_root
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.database import encode_job, open_for_writing
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import Slot

#: Runs until its time limit.
SPIN: Final = bytes(wat2wasm('(module (func (export "run") (loop (br 0))))'))


def reported(daemon: Daemon, *words: str, **variables: str) -> dict[str, Any]:
    """Return what the command prints as JSON; its exit status must agree with it."""
    done = run(daemon, "status", "--json", *words, **variables)
    assert done.stderr == ""
    printed: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if printed["attention"] else 0)
    assert printed["status"] == ("attention" if printed["attention"] else "ok")
    return printed


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Daemon]:
    """Give a running daemon that has two modules."""
    it = Daemon(
        tmp_path,
        TIMEOUT_SEC="600",
        WASMDROP_DRAIN_SEC="0",
        WASMDROP_WORKERS="6",
        WASMDROP_MODULE_WAIT_SEC="600",
    )
    drop(it.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
    drop(it.wasm / "spin.wasm", SPIN)
    with it.running():
        yield it


def test_status_of_a_running_daemon_is_ok_and_says_who_it_is(idle: Daemon) -> None:
    """Process, user, time and version; folders; jobs of the last hour and the last failures."""
    marker = idle.submit("input-bad.json", {"module": "fib", "entry": "two\nlines\x1b[2J"})
    idle.submit("input-good.json", {"module": "fib", "entry": "fib", "args": [1]})
    drop(idle.shared / "input-spin.json", '{"module":"spin"}')
    drop(idle.shared / "input-late.json", '{"module":"late"}')
    running = wait_for_state(idle, "spin", "running")
    waiting = wait_for_state(idle, "late", "waiting")
    wait_for_state(idle, "good", "delivered")
    found = reported(idle)
    assert found["status"] == "ok", found["attention"]
    assert idle.process is not None
    daemon = found["daemon"]
    assert (daemon["is_running"], daemon["pid"]) == (True, idle.process.pid)
    assert daemon["user"]
    assert 0 < daemon["uptime_seconds"] < 3600
    assert daemon["version"] == marker["runtime"]["wasmdrop"]
    assert found["guest"] in {"native", "python"}
    for name, path in (("shared", idle.shared), ("wasm", idle.wasm), ("state", idle.state)):
        folder = found["folders"][name]
        assert (folder["path"], folder["problem"]) == (str(path), "")
        assert 0 < folder["free_bytes"] <= folder["total_bytes"]
    assert {state: (it["count"], it["oldest_job"]) for state, it in found["open"].items()} == {
        "running": (1, running["job"]),
        "waiting": (1, waiting["job"]),
    }
    assert [job["job"] for job in found["running"]] == [running["job"]]
    assert found["last_hour"] == {
        "finished": 2,
        "failed": 1,
        "failed_by_code": {"entry-not-found": 1},
    }
    (failure,) = found["failures"]
    assert (failure["job"], failure["code"]) == (marker["job"], "entry-not-found")
    assert failure["slot"] == "input-bad.json"
    assert "two\\" in failure["why"]
    assert failure["why"].isprintable()
    text = run(idle, "status")
    assert text.returncode == 0
    rows = [line.split("\t") for line in text.stdout.splitlines()]
    assert all(len(row) == 2 and all(cell.isprintable() for cell in row) for row in rows)
    assert dict(rows)["status"] == "ok"
    assert running["job"] in dict(rows)["running"]


def test_status_on_a_terminal_is_one_screen_without_foreign_escapes(idle: Daemon) -> None:
    """Of 80 columns, however many jobs run and fail, and however long their names are."""
    for number in range(6):
        idle.submit(
            f"input-{'long' * 20}-{number}.json", {"module": "fib", "entry": f"[red]\x1b{number}"}
        )
        drop(idle.shared / f"input-{'spin' * 20}-{number}.json", '{"module":"spin"}')
    for number in range(6):
        wait_for_state(idle, f"{'spin' * 20}-{number}", "running")
    status, text = on_terminal(command("status"), idle.environment | {"COLUMNS": "80"})
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert status == 0
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert "\x1b[1;32mok" in text
    assert "\x1b" not in "".join(lines)
    assert "and 3 more" in text


def test_status_without_a_daemon_needs_attention(tmp_path: Path) -> None:
    """It ended or was killed; also one whose child still holds the lock."""
    daemon = Daemon(tmp_path)
    with daemon.running():
        pass
    found = reported(daemon)
    assert found["daemon"]["is_running"] is False
    assert found["attention"] == [
        "no daemon is running: its log says why it ended; start `wasmdrop serve`"
    ]
    done = run(daemon, "status")
    assert (done.returncode, done.stdout.splitlines()[0]) == (1, "status\tattention")
    daemon.start()
    daemon.kill()
    with (daemon.state / "lock").open("rb") as lock:
        # The children of a killed daemon hold its lock for a moment.
        wait_until(lambda: is_locked_by(lock), "the lock")
        found = reported(daemon)
    assert (found["daemon"]["is_running"], found["daemon"]["has_ended"]) == (False, True)
    assert found["daemon"]["pid"] is None
    assert "has ended; some of its children have not yet" in found["attention"][0]


def is_locked_by(lock: BinaryIO) -> bool:
    """Lock the file; return whether that was possible."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_status_asks_the_daemon_whether_it_is_ready(tmp_path: Path) -> None:
    """By its address; one that does not answer needs attention, and so does a missing folder."""
    daemon = Daemon(tmp_path, WASMDROP_HTTP="127.0.0.1:0")
    with daemon.running():
        (event,) = daemon.until_logged("http-listening")
        address = event["address"]
        ready = reported(daemon, WASMDROP_HTTP=address)["ready"]
        assert (ready["address"], ready["is_ready"], ready["reasons"]) == (address, True, [])
        found = reported(daemon, WASMDROP_HTTP="127.0.0.1:1")
        assert found["ready"]["is_ready"] is None
        (reason,) = found["attention"]
        assert reason.startswith("not ready: no answer at 127.0.0.1:1: ")
        daemon.shared.rename(tmp_path / "away")
        found = reported(daemon, WASMDROP_HTTP=address)
        (tmp_path / "away").rename(daemon.shared)
    assert found["ready"]["is_ready"] is False
    assert f"the shared directory {daemon.shared}: it is not there" in found["attention"][0]
    assert found["attention"][1].startswith("not ready: the shared directory can't be written to")


def test_status_says_which_results_are_undelivered_and_why(tmp_path: Path, small: Path) -> None:
    """Until storage takes them."""
    daemon = Daemon(tmp_path, WASMDROP_RESERVE_MB="0")
    drop(daemon.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
    with daemon.running():
        (small / "input.json").write_text('{"module":"fib","entry":"fib","args":[1]}')
        wait_until(lambda: daemon.marker("small/input.json"), "the first result")
        fill(small)
        (small / "input.json").write_text('{"module":"fib","entry":"fib","args":[2]}')
        kept = wait_until(
            lambda: it if (it := reported(daemon)["undelivered"])["reasons"] else None, "a failure"
        )
        (attention,) = reported(daemon)["attention"]
        (small / "filler").unlink()
        wait_until(lambda: reported(daemon)["status"] == "ok", "the delivery")
    assert (kept["count"], len(kept["reasons"])) == (1, 1)
    assert "No space left on device" in kept["reasons"][0]
    assert attention.startswith(
        "jobs with undelivered results: 1; `wasmdrop jobs --state executed`; "
    )


def test_status_says_that_little_space_pauses_intake(idle: Daemon) -> None:
    """Below the reserved space."""
    (reason, _) = reported(idle, WASMDROP_RESERVE_MB="1048576")["attention"]
    assert "below WASMDROP_RESERVE_MB (1048576) the daemon takes no drops" in reason


@pytest.mark.parametrize("part", ["shared", "state"])
def test_status_does_not_wait_for_storage_that_hangs(tmp_path: Path, part: str) -> None:
    """It says which, and shows the rest."""
    require_root()
    daemon = Daemon(tmp_path)
    with daemon.running():
        pass
    with hanging_disk(tmp_path / part):
        done = run(daemon, "status", "--json")
    if part == "state":
        assert (done.returncode, done.stdout) == (3, "")
        (line,) = done.stderr.splitlines()
        assert line.endswith("no answer: its storage hangs")
    else:
        found = json.loads(done.stdout)
        assert done.returncode == 1
        assert found["folders"]["shared"]["problem"] == "no answer: its storage hangs"
        assert found["folders"]["state"]["free_bytes"] > 0
        assert found["daemon"]["is_running"] is False


def test_status_without_a_readable_journal_prints_one_line(tmp_path: Path) -> None:
    """No journal, no right to read it, a damaged one; wrong use."""
    daemon = Daemon(tmp_path)

    def refusal(status: int, *words: str) -> str:
        done = run(daemon, "status", *words)
        assert (done.returncode, done.stdout) == (status, "")
        return done.stderr.splitlines()[0]

    assert "there is no journal; expected the daemon's state directory" in refusal(2)
    with daemon.running():
        pass
    journal = daemon.state / "journal.sqlite"
    if os.geteuid() == 0:
        daemon.prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    journal.chmod(0)
    assert "the journal is for root and for the user that runs the daemon" in refusal(2)
    journal.chmod(0o600)
    assert refusal(2, "--nonsense").startswith("wasmdrop")
    journal.write_bytes(b"no database at all" * 100)
    assert "the journal can't be read: file is not a database" in refusal(3)


def test_status_of_a_full_queue_counts_every_job(tmp_path: Path) -> None:
    """Failures of the last hour by code, older ones not; faults of the daemon need attention."""
    daemon = Daemon(tmp_path, WASMDROP_MAX_QUEUED="2000")
    now_ns = time.time_ns()
    fill_journal(daemon.state / "journal.sqlite", now_ns, open_jobs=2000)
    found = reported(daemon)
    assert found["open"]["queued"]["count"] == 2000
    assert found["last_hour"]["failed_by_code"] == {"trap": 30, "internal": 10}
    assert found["last_hour"]["finished"] == 90
    assert [failure["code"] for failure in found["failures"]] == ["internal"] * 3
    assert found["attention"][1:] == [
        "the queue is full: 2000 open jobs (WASMDROP_MAX_QUEUED); drops wait",
        "faults of the daemon in the last hour: 10; `wasmdrop jobs --code internal`",
    ]


def fill_journal(path: Path, now_ns: int, open_jobs: int) -> None:
    """Write a journal: finished jobs of two hours, a minute apart, and open ones."""
    ends = [Code.OK] * 50 + [Code.TRAP] * 30 + [Code.INTERNAL] * 10
    jobs = [
        a_job(number, JobState.DELIVERED, code, now_ns - age_minutes * 60_000_000_000)
        for number, (code, age_minutes) in enumerate(
            [(code, 90) for code in ends] + [(code, 1) for code in ends]
        )
    ]
    jobs += [a_job(len(jobs) + n, JobState.QUEUED, None, now_ns) for n in range(open_jobs)]
    path.parent.mkdir(mode=0o700)
    connection = open_for_writing(path)
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO jobs (id, slot, state, code, job, changed_ns) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (job.id, job.slot.key.encode(), job.state, job.code, encode_job(job), changed_ns)
            for job, changed_ns in jobs
        ],
    )
    connection.execute("COMMIT")
    connection.close()


def a_job(number: int, state: JobState, code: Code | None, changed_ns: int) -> tuple[Job, int]:
    """Return a job and the time of its last change, unique by its number."""
    key = f"input-{number}.json"
    slot = Slot(key, f"/shared/{key}", "/shared", f"result-{number}")
    job = Job(f"20260101T000000Z-{number:010x}", slot, changed_ns, state, code=code)
    return job, changed_ns + number


def test_status_writes_nothing(idle: Daemon) -> None:
    """Neither beside the journal nor into it."""
    idle.submit("input-good.json", {"module": "fib", "entry": "fib", "args": [1]})
    wait_for_state(idle, "good", "delivered")
    idle.stop()
    before = {path: path.lstat().st_mtime_ns for path in idle.state.rglob("*")}
    reported(idle)
    assert {path: path.lstat().st_mtime_ns for path in idle.state.rglob("*")} == before
    idle.start()
    assert sqlite3.connect(idle.state / "journal.sqlite").execute("SELECT 1").fetchone() == (1,)
