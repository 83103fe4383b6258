"""The flags of ``wasmdrop submit`` that describe a job, and what happens to its results."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.commands import command
from tests.support.daemon import Daemon, drop, environment, wait_until
from tests.support.fib import FIB
from tests.support.wasi_programs import FILE_PROGRAMS, FILES, READER, STREAM_PROGRAMS, STREAMS
from wasmdrop.client import submit

#: Grows its memory by 200 MiB, which only a limit refuses.
GROW: Final = (
    '(module (memory 1) (func (export "run")'
    " (if (i32.eq (memory.grow (i32.const 3200)) (i32.const -1)) (then (unreachable)))))"
)
PROGRAMS: Final = {
    "fib": FIB,
    "grow": GROW,
    "env": f"(module {STREAMS} {STREAM_PROGRAMS['env']})",
    "much": f"(module {STREAMS} {STREAM_PROGRAMS['much']})",
    "work": f"(module {FILES} {FILE_PROGRAMS['work']})",
    "large": f"(module {FILES} {FILE_PROGRAMS['large']})",
    "read": READER.replace("FLAGS", "0").replace("RIGHTS", "2"),
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon with all programs and a grant."""
    base = tmp_path_factory.mktemp("flags")
    books = base / "books"
    books.mkdir()
    (books / "title").write_text("a book")
    for path in (base, *base.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    it = Daemon(base, WASMDROP_GRANTS=f"books={books}")
    for name, text in PROGRAMS.items():
        drop(it.wasm / f"{name}.wasm", bytes(wat2wasm(text)))
    with it.running():
        yield it


def run(
    daemon: Daemon, *words: str, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Submit a job."""
    return subprocess.run(
        command("submit", "--shared-dir", str(daemon.shared), *words),
        env=environment(**variables),
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
    )


def marker(daemon: Daemon, *words: str, **more: Any) -> dict[str, Any]:
    """Submit a job, wait for it, and return its marker with the result."""
    done = run(daemon, *words, "--wait", "--json", **more)
    assert done.stderr == b""
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_submit_env_reaches_the_job_with_given_and_inherited_values(daemon: Daemon) -> None:
    """In the order of the flags; a value may have equals signs, and may be empty."""
    words = ("--env", "A=1=2", "--env", "OURS", "--env", "EMPTY=")
    found = marker(daemon, "--module", "env", *words, OURS="from here", OTHER="unseen")
    assert found["result"]["stdout"] == "A=1=2\0OURS=from here\0EMPTY=\0"


def test_submit_file_reaches_the_job_by_its_own_and_by_another_name(
    daemon: Daemon, tmp_path: Path
) -> None:
    """Text and bytes; the files come back as output files. One is standard input."""
    (tmp_path / "raw").write_bytes(b"\0\xff")
    words = ("--file", "data/in.txt=-", "--file", str(tmp_path / "raw"), "--module", "work")
    found = marker(daemon, *words, stdin="héllo".encode())
    assert (found["code"], found["result"]["stdout"]) == ("ok", "héllo")
    output = daemon.result_path(found["slot"], ".output")
    assert (output / "raw").read_bytes() == b"\0\xff"


def test_submit_grant_lets_the_job_read_the_directory(daemon: Daemon) -> None:
    """Without the flag the same job can't."""
    words = ("--module", "read", "--stdin", "-")
    found = marker(daemon, *words, "--grant", "books", stdin=b"title")
    assert found["result"]["stdout"] == "a book"
    assert marker(daemon, *words, stdin=b"title")["code"] == "exit"


def test_submit_deterministic_and_id_are_in_the_marker(daemon: Daemon) -> None:
    """Together with the fuel that such a job uses."""
    words = ("--module", "fib", "--entry", "fib", "--arg", "12", "--id", "order 7")
    found = marker(daemon, *words, "--deterministic")
    assert found["deterministic"]["seed"] is not None
    assert found["fuel_used"] > 0
    assert found["id"] == "order 7"
    assert marker(daemon, *words)["deterministic"] is None


@pytest.mark.parametrize(
    ("module", "flag", "limit", "code"),
    [
        ("grow", "--memory-mb", "100", "memory-limit"),
        ("much", "--output-mb", "0.05", "output-limit"),
        ("large", "--disk-mb", "1", "disk-limit"),
        ("fib", "--fuel", "10", "fuel-limit"),
    ],
)
def test_submit_limit_ends_the_job(
    daemon: Daemon, module: str, flag: str, limit: str, code: str
) -> None:
    """The marker has the limit and says that it was reached."""
    words = ("--entry", "fib", "--arg", "12") if module == "fib" else ()
    found = marker(daemon, "--module", module, *words, flag, limit)
    assert found["code"] == code
    assert found["limits"][flag[2:].replace("-", "_")] == float(limit)
    assert marker(daemon, "--module", "fib", "--entry", "fib", "--arg", "1")["code"] == "ok"


def test_submit_rm_leaves_nothing_and_save_keeps_every_result_file(
    daemon: Daemon, tmp_path: Path
) -> None:
    """Input, results, marker, output files and, with a module, the job's directory are gone."""
    (tmp_path / "in").write_text("hello")
    (tmp_path / "work.wasm").write_bytes((daemon.wasm / "work.wasm").read_bytes())
    before = sorted(daemon.shared.rglob("*"))
    words = ("--file", f"data/in.txt={tmp_path}/in", "--wait", "--rm")
    done = run(daemon, "--module", "work", *words, "--save", str(tmp_path / "saved"))
    assert (done.returncode, done.stderr) == (0, b"")
    with_module = run(daemon, "--module-file", str(tmp_path / "work.wasm"), *words, "--name", "x/y")
    own = run(daemon, "--module-file", str(tmp_path / "work.wasm"), *words)
    assert [each.returncode for each in (with_module, own)] == [0, 0]
    left = set(daemon.shared.rglob("*")) - set(before)
    assert left == {daemon.shared / "x", daemon.shared / "x" / "module.wasm"}
    saved = {
        str(path.relative_to(tmp_path / "saved")): path.read_bytes()
        for path in (tmp_path / "saved").rglob("*")
        if path.is_file()
    }
    assert saved.pop("result.json") == done.stdout
    assert saved.pop("result.txt").endswith(b"\n0\n")
    assert saved == {
        "result.stdout": b"hello",
        "result.stderr": b"",
        "result.output/data/in.txt": b"hello",
        "result.output/out/answer.txt": b"42\n",
        "result.output/top": b"h",
    }


def test_submit_rm_without_a_result_removes_nothing(tmp_path: Path) -> None:
    """No daemon takes the job, and it stays dropped."""
    it = Daemon(tmp_path)
    assert run(it, "--entry", "fib", "--name", "x", "--wait", "0", "--rm").returncode == 124
    assert [path.name for path in it.shared.iterdir()] == ["input-x.json"]


def test_removal_leaves_a_slot_that_has_another_input_by_then(daemon: Daemon) -> None:
    """Whether the newer input is still there, or only its result."""
    spec = {"module": "fib", "entry": "fib", "args": [3]}
    first = submit(daemon.shared, spec, "again")
    first.result(60)
    second = submit(daemon.shared, {**spec, "args": [12]}, "again")
    first.remove()
    assert second.result(60).results == (144,)
    first.remove()
    second.input_path.unlink()
    first.remove()
    assert second.result(60).results == (144,)
    second.remove()
    assert list(daemon.shared.glob("*again*")) == []


def test_removal_of_the_slot_does_not_end_its_next_job(daemon: Daemon) -> None:
    """A name can be used again at once, many times."""
    words = ("--module", "fib", "--entry", "fib", "--name", "often", "--wait", "--rm")
    for number in range(5):
        done = run(daemon, *words, "--arg", str(number))
        assert json.loads(done.stdout)["args"] == [number]
        assert list(daemon.shared.glob("*often*")) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "MISSING"], "--env: MISSING: no such variable here; expected NAME=VALUE"),
        (["--env", "A=1", "--env", "A=2"], "--env: A: given twice"),
        (["--env", "=1"], "the job: $.env"),
        (["--file", "/nowhere/x"], "/nowhere/x: can't be read: No such file"),
        (["--file", "-"], "--file: -: standard input has no name; expected NAME=-"),
        (["--file", "x="], "--file: x=: expected NAME=PATH"),
        (["--file", "../x=/dev/null"], "the job: $.files"),
        (["--file", "a=/dev/null", "--file", "a=/dev/null"], "--file: a: given twice"),
        (["--file", "a=-", "--stdin", "-"], "-: standard input can be read only once"),
        (["--grant", "a/b"], "the job: $.grants"),
        (["--id", "x" * 201], "the job: $.id: expected at most 200 characters"),
        (["--rm"], "--rm: needs --wait"),
        (["--save", "saved"], "--save: needs --wait"),
        (["--wait", "--save", "/dev/null"], "--save: /dev/null: File exists"),
        (["--wait", "--save", "/proc"], "--save: /proc: expected a new or an empty directory"),
        (["--wait", "--max-result-mb", "0"], "--max-result-mb: expected 1 or more, got 0"),
        (["--wait", "--save", "x", "-", "-"], "--save: DIR holds one result"),
        (["--deterministic", "-"], "--deterministic: describes a job, and so does FILE"),
        (["--memory-mb", "1", "-"], "--memory-mb: describes a job, and so does FILE"),
    ],
)
def test_submit_with_wrong_flags_prints_one_line_and_drops_nothing(
    tmp_path: Path, words: list[str], message: str
) -> None:
    """With exit status 2."""
    it = Daemon(tmp_path)
    done = run(it, *words, stdin=b"{}")
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.decode().splitlines()
    assert message in line
    assert list(it.shared.iterdir()) == []


def test_submit_of_an_input_over_the_limit_warns(daemon: Daemon, tmp_path: Path) -> None:
    """The daemon has the same limit here, and refuses the job."""
    large = tmp_path / "large"
    large.write_bytes(b"x" * (17 << 20))
    done = run(daemon, "--module", "work", "--file", str(large), "--wait", "--rm")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "invalid-input"
    assert "the daemon refuses those over 16 MiB (WASMDROP_MAX_INPUT_MB)" in done.stderr.decode()


def test_client_takes_bytes_for_standard_input_and_files(daemon: Daemon) -> None:
    """Whether they are text or not."""
    files = {"data/in.txt": b"text", "raw": b"\xff\0", "given": {"base64": "AA=="}}
    with submit(daemon.shared, {"module": "work", "files": files, "stdin": b"\xff"}) as job:
        result = wait_until(lambda: job.result(60), "the result")
    assert result.stdout == b"text"
    assert (result.output["raw"], result.output["given"]) == (b"\xff\0", b"\0")
