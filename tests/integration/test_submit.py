"""``wasmdrop submit`` and the producers' library, against a real daemon."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest
from wasmtime import wat2wasm

from tests.support.commands import command, on_terminal
from tests.support.daemon import Daemon, drop, environment, wait_until
from tests.support.fib import FIB
from tests.support.wasi_programs import STREAM_PROGRAMS, STREAMS
from wasmdrop.cli.submit import _status
from wasmdrop.client import Result, ResultError, TornResultError, submit
from wasmdrop.protocol.outcome import Code

TWELVE: Final = '{"entry":"fib","args":[12]}'
TWELVE_LINE: Final = '{"entry":"fib","args":[12],"results":[144]}\n'
SPIN: Final = bytes(wat2wasm('(module (func (export "run") (loop br 0)))'))
CAT: Final = bytes(wat2wasm(f"(module {STREAMS} {STREAM_PROGRAMS['cat']})"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon for all tests; each uses slots of its own."""
    it = Daemon(tmp_path_factory.mktemp("submit"))
    for name in ("module.wasm", "fib.wasm"):
        drop(it.wasm / name, bytes(wat2wasm(FIB)))
    with it.running():
        yield it


def submitting(shared: Path, *words: str) -> list[str]:
    """Return the command line of ``wasmdrop submit``."""
    return command("submit", "--shared-dir", str(shared), *words)


def run(shared: Path, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run it; standard output is no terminal."""
    return subprocess.run(
        submitting(shared, *words),
        env=environment(),
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
    )


def shown(shared: Path, *words: str) -> tuple[int, str]:
    """Return its exit status and its output on a terminal."""
    return on_terminal(submitting(shared, *words), environment(COLUMNS="120"))


def finished_slots(daemon: Daemon) -> list[str]:
    """Return the slots of all finished jobs, once for each job."""
    return [event["slot"] for event in daemon.events("job-finished")]


def test_submit_wait_prints_the_line_of_result_json(daemon: Daemon) -> None:
    """From flags, from a file, from standard input; with nothing else on either stream."""
    file = daemon.shared.parent / "job.json"
    file.write_text(TWELVE)
    for words in (
        ("--entry", "fib", "--args", "[12]", "--wait"),
        ("--entry", "fib", "--arg", "12", "--wait", "60"),
        ("--wait", str(file)),
        (str(file), "--wait"),
        ("--wait", "-"),
    ):
        done = run(daemon.shared, *words, stdin=TWELVE.encode())
        assert (done.returncode, done.stdout.decode(), done.stderr) == (0, TWELVE_LINE, b"")


def test_submit_of_files_drops_each_byte_for_byte_into_a_slot_of_its_own(daemon: Daemon) -> None:
    """The results come in the order of the files, whichever was done first."""
    files = []
    for number in range(5):
        file = daemon.shared.parent / f"{number}.json"
        file.write_text(f'{{ "entry" :"fib", "args":[{number}]}}\r\n')
        files.append(str(file))
    before = set(daemon.shared.iterdir())
    done = run(daemon.shared, *files[:4], "--wait", files[4])
    assert [json.loads(line)["args"] for line in done.stdout.splitlines()] == [
        [number] for number in range(5)
    ]
    dropped = set(daemon.shared.glob("input-*.json")) - before
    inputs = sorted(path.read_bytes() for path in dropped)
    assert inputs == [Path(file).read_bytes() for file in files]


def test_submit_without_wait_prints_the_path_of_the_input(daemon: Daemon) -> None:
    """So that a script knows where the result will be."""
    done = run(daemon.shared, "--entry", "fib", "--arg", "12", "--name", "batch/x")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == os.fsencode(daemon.shared / "batch" / "input-x.json") + b"\n"
    daemon.wait_for("batch/input-x.json", TWELVE.encode())
    assert daemon.result("batch/input-x.json")["results"] == [144]


def test_submit_json_prints_the_marker_with_the_result(daemon: Daemon) -> None:
    """Without a result it says where both will be."""
    words = ("--module", "fib", "--entry", "fib", "--arg", "12", "--name", "x")
    done = run(daemon.shared, *words, "--wait", "--json")
    printed = json.loads(done.stdout)
    assert printed["module"]["path"] == str(daemon.wasm / "fib.wasm")
    assert printed.pop("result") == json.loads(TWELVE_LINE)
    assert printed == daemon.marker("input-x.json")
    done = run(daemon.shared, "--name", "y", "--arg", "1", "--json")
    printed = json.loads(done.stdout)
    assert (printed["status"], printed["slot"]) == ("dropped", "input-y.json")
    marker = wait_until(lambda: daemon.marker("input-y.json"), "the marker")
    assert printed["input"] == {key: marker["input"][key] for key in ("path", "sha256", "bytes")}
    assert Path(printed["marker"]).exists()


def test_submit_has_an_exit_status_for_each_outcome(daemon: Daemon) -> None:
    """1 for a failed job, 124 for a timeout; of several jobs the gravest."""
    done = run(daemon.shared, "--entry", "nope", "--wait")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "entry-not-found"
    spin = daemon.shared.parent / "spin.wasm"
    spin.write_bytes(SPIN)
    words = ("--module-file", str(spin), "--timeout-sec", "0.1", "--wait")
    done = run(daemon.shared, *words)
    assert done.returncode == 124
    assert json.loads(done.stdout)["error"]["code"] == "timeout"
    good, bad = (daemon.shared.parent / name for name in ("good.json", "bad.json"))
    good.write_text(TWELVE)
    bad.write_text('{"entry":"nope"}')
    done = run(daemon.shared, "--wait", str(bad), str(good))
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 2)


@pytest.mark.parametrize(
    ("code", "status"), [(Code.OK, 0), (Code.TRAP, 1), (Code.INTERNAL, 3), (Code.CRASHED, 1)]
)
def test_submit_status_tells_whose_fault_a_failure_is(code: Code, status: int) -> None:
    """Also for the outcomes that no test can cause at will."""
    result = msgspec.convert(
        {"status": code.status, "code": code, "message": "", "raw": "", "line": b"", "text": b""}
        | {"marker": {}, "output": {}}
        | dict.fromkeys(("results", "exit_code", "stdout", "stderr", "receipt")),
        Result,
    )
    assert _status(result) == status
    assert _status(TornResultError()) == _status(ResultError()) == 3


def test_submit_wait_that_times_out_says_so_and_the_job_stays_dropped(tmp_path: Path) -> None:
    """There is no daemon here."""
    done = run(tmp_path, "--entry", "fib", "--name", "x", "--wait", "0.05")
    assert (done.returncode, done.stdout) == (124, b"")
    message = done.stderr.decode()
    assert "no result in time" in message
    assert f"no daemon has watched {tmp_path}: it has no .wasmdrop.lock" in message
    assert message.endswith("; the job stays dropped\n")
    assert (tmp_path / "input-x.json").read_text() == '{"entry":"fib"}'
    done = run(tmp_path, "--wait", "0", "--json")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (124, "dropped")


def test_submit_wait_says_that_the_module_is_missing(tmp_path: Path) -> None:
    """Once while it waits, and when it times out; the journal can be read here."""
    it = Daemon(tmp_path, WASMDROP_MODULE_WAIT_SEC="3600")
    words = ["--entry", "fib", "--args", "[12]", "--module", "late", "--wait"]
    late = submitting(it.shared, *words)
    reason = f"its module is not there yet: {it.wasm}/late and {it.wasm}/late.wasm"
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        stack.enter_context(it.running())
        waiting = stack.enter_context(
            subprocess.Popen(late, env=it.environment, stdout=pipe, stderr=pipe)
        )
        stack.callback(waiting.kill)
        assert waiting.stderr is not None
        assert reason in waiting.stderr.readline().decode()
        # Its job may take longer to be journaled than the shortest wait.
        for _ in range(100):
            done = subprocess.run(
                [*late, "0.2"], env=it.environment, capture_output=True, check=False
            )
            assert done.returncode == 124
            if f"no result in time: {reason}" in done.stderr.decode():
                break
        assert f"no result in time: {reason}" in done.stderr.decode()
        drop(it.wasm / "late.wasm", bytes(wat2wasm(FIB)))
        out, rest = waiting.communicate(timeout=60)
    assert json.loads(out)["results"] == [144]
    assert reason.encode() not in rest


@pytest.mark.parametrize("state_dir", ["/nonexistent", None])
def test_submit_wait_without_the_journal_says_where_to_look(
    daemon: Daemon, state_dir: str | None
) -> None:
    """Most producers may not read it, or have none."""
    variables = {} if state_dir is None else {"WASMDROP_STATE_DIR": state_dir}
    done = subprocess.run(
        submitting(daemon.shared, "--module", "late", "--wait", "0.1"),
        env=environment(**variables),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 124
    assert f"{daemon.shared} has the lock of a daemon" in done.stderr.decode()


def test_submit_of_an_invalid_file_warns_and_leaves_it_to_the_daemon(daemon: Daemon) -> None:
    """Both use the same words."""
    done = run(daemon.shared, "--wait", "-", stdin=b'{"entry": "fib", "entry": 1}')
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "invalid-input"
    assert f"warning: standard input: {error['message']}" in done.stderr.decode()


def test_submit_of_files_one_of_which_cant_be_read_drops_none(tmp_path: Path) -> None:
    """Half of a batch is worse than none."""
    (tmp_path / "a.json").write_text("{}")
    shared = tmp_path / "shared"
    shared.mkdir()
    done = run(shared, str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"{tmp_path}/b.json: can't be read: No such file" in done.stderr.decode()
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--args", "[1", "--wait"], "--args: line 1, column 3, at $[0]: expected"),
        (["--args", "12"], "the job: $.args: expected an array, got 12"),
        (["--name", "a\tb"], "--name: expected 1 to 200 printable characters"),
        (["--name", "x", "-", "-"], "--name: a slot holds one result"),
        (["--entry", "fib", "-"], "--entry: describes a job, and so does FILE"),
        (["--wait", "-1"], "--wait: expected 0 or more seconds, got -1"),
        (["--module-file", "/nowhere"], "/nowhere: can't be read: No such file"),
        (
            ["--shared-dir", "/nowhere"],
            "/nowhere: the shared directory does not exist; expected the daemon's, by --config,",
        ),
    ],
)
def test_submit_with_wrong_arguments_prints_one_line_and_drops_nothing(
    tmp_path: Path, words: list[str], message: str
) -> None:
    """With exit status 2."""
    done = run(tmp_path, *words, stdin=b"{}")
    assert (done.returncode, done.stdout) == (2, b"")
    *_, error = [line for line in done.stderr.decode().splitlines() if line[:5] != "Help:"]
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_submit_takes_the_daemons_settings_from_the_environment(tmp_path: Path) -> None:
    """Also that inputs need a ready file; the daemon's state directory does not matter."""
    done = subprocess.run(
        [sys.executable, "-m", "wasmdrop", "submit", "--name", "x"],
        env=environment(
            WASMDROP_SHARED_DIR=str(tmp_path),
            WASMDROP_READY_SUFFIX=".go",
            WASMDROP_STATE_DIR=str(tmp_path / "state"),
        ),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == os.fsencode(tmp_path / "input-x.json") + b"\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input-x.json", "input-x.json.go"]


def test_submit_with_a_module_file_runs_it_once_with_binary_input(daemon: Daemon) -> None:
    """Module and input dropped together are one job, and binary input arrives whole."""
    cat = daemon.shared.parent / "cat.wasm"
    cat.write_bytes(CAT)
    data = bytes(range(256)) * 300
    words = ("--module-file", str(cat), "--stdin", "-", "--wait", "--json")
    done = run(daemon.shared, *words, stdin=data)
    assert done.returncode == 0, done.stderr
    slot = json.loads(done.stdout)["slot"]
    assert daemon.result_path(slot, ".stdout").read_bytes() == data
    # A second job of the slot would have begun before one that is dropped now.
    later = submit(daemon.shared, {"entry": "fib", "args": [1]})
    assert later.result(60).results == (1,)
    slots = wait_until(
        lambda: found if later.slot in (found := finished_slots(daemon)) else None, "the log line"
    )
    assert slots.count(slot) == 1


def test_submit_wait_that_is_interrupted_says_that_the_jobs_stay(tmp_path: Path) -> None:
    """Ctrl-C, and no traceback."""
    process = subprocess.Popen(
        submitting(tmp_path, "--name", "x", "--wait"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until((tmp_path / "input-x.json").exists, "the drop")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    message = f"interrupted; dropped jobs stay dropped, their results will be in {tmp_path}"
    assert err.decode() == f"wasmdrop: {message}\n"
    assert (tmp_path / "input-x.json").exists()


def test_client_gets_every_result_and_the_right_one(daemon: Daemon) -> None:
    """Many slots side by side; then the same bytes in one slot again and again, each a job."""
    fib = [0, 1]
    while len(fib) < 20:
        fib.append(fib[-1] + fib[-2])
    dropped = [submit(daemon.shared, {"entry": "fib", "args": [n % 20]}) for n in range(100)]
    results = [submission.result(60).results for submission in dropped]
    assert results == [(fib[n % 20],) for n in range(100)]
    jobs = []
    for _ in range(10):
        result = submit(daemon.shared, {"entry": "fib", "args": [12]}, "again").result(60)
        assert (result.results, result.raw) == ((144,), "144")
        jobs.append(result.marker["job"])
    assert len(set(jobs)) == 10


def test_submit_on_a_terminal_shows_one_job_in_full_and_in_colour(daemon: Daemon) -> None:
    """The status, the JSON highlighted; or code and message."""
    words = ("--entry", "fib", "--arg", "12", "--wait")
    status, text = shown(daemon.shared, *words)
    assert status == 0
    assert "\x1b[1;32msucceeded\x1b[0m  fib  in " in text
    assert '\x1b[1;34m"results"\x1b[0m' in text
    assert "\x1b[1;36m144\x1b[0m" in text
    status, text = shown(daemon.shared, "--entry", "[red]nope", "--wait")
    assert status == 1
    assert "\x1b[1;31mfailed\x1b[0m\x1b[31m  entry-not-found\x1b[0m" in text
    assert 'the module exports no function "[red]nope"' in text


def test_submit_on_a_terminal_shows_several_jobs_in_one_line_each(daemon: Daemon) -> None:
    """With a progress bar while it waits, and a count at the end."""
    files = []
    for number, entry in enumerate(("fib", "fib", "nope")):
        file = daemon.shared.parent / f"{number}.json"
        file.write_text(json.dumps({"entry": entry, "args": [10 + number]}))
        files.append(str(file))
    status, text = shown(daemon.shared, "--wait", *files)
    assert status == 1
    assert f"succeeded\x1b[0m  {files[1]}  \x1b[1;36m89\x1b[0m" in text
    assert f"failed\x1b[0m  {files[2]}  \x1b[31mentry-not-found: \x1b[0m" in text
    assert "━━━" in text
    assert text.endswith("2 succeeded, 1 failed\r\n")


def test_submit_on_a_terminal_escapes_the_output_of_a_guest(daemon: Daemon) -> None:
    """Neither escape sequences nor rich's markup act."""
    cat, evil = (daemon.shared.parent / name for name in ("cat.wasm", "evil"))
    cat.write_bytes(CAT)
    evil.write_bytes(b"[bold]\x1b]0;owned\x07\xc2\x9b31m\ta\r\nb\xff")
    words = ("--module-file", str(cat), "--stdin", str(evil), "--wait")
    status, text = shown(daemon.shared, *words)
    assert status == 0
    assert "[bold]\\x1b]0;owned\\x07\\x9b31m " in text
    assert "\x1b]" not in text
    assert "\x9b" not in text
    assert "a\r\nb\N{REPLACEMENT CHARACTER}\r\n" in text
