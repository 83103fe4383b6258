"""``wasmdrop run``: the first executor's environment, files and last line, and a timeout."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import environment, wait_until
from tests.support.fib import FIB

ADD = """
(module (func (export "add") (param i64 i64) (result i64)
  (i64.add (local.get 0) (local.get 1))))
"""
SPIN = '(module (func (export "run") (loop br 0)))'


def run(base: Path, module: str | None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``wasmdrop run`` on a module given as text, with results below ``base``."""
    process = start(base, module, **variables)
    out, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def start(base: Path, module: str | None, **variables: str) -> "subprocess.Popen[str]":
    """Start ``wasmdrop run``."""
    for directory in ("wasm", "out"):
        (base / directory).mkdir(exist_ok=True, parents=True)
    if module is not None:
        (base / "wasm" / "module.wasm").write_bytes(bytes(wat2wasm(module)))
    paths = {
        "WASM_PATH": str(base / "wasm" / "module.wasm"),
        "INPUT_PATH": str(base / "input.json"),
        "OUTPUT_PATH": str(base / "out" / "result.txt"),
        "WASMDROP_STATE_DIR": str(base / "state"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "wasmdrop", "run"],
        env=environment(**(paths | variables)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 3)])
def test_run_that_is_stopped_ends_at_once_without_a_traceback(
    tmp_path: Path, number: int, status: int
) -> None:
    """With the status of an interrupted command, or that of a run that failed."""
    with start(tmp_path, SPIN, TIMEOUT_SEC="600") as process:
        wait_until(lambda: any((tmp_path / "state").glob("*/*")), "the compiled module")
        process.send_signal(number)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert out == ""
    assert "Traceback" not in errors


def test_run_without_settings_adds_five_and_seven(tmp_path: Path) -> None:
    """The fallback of the first executor."""
    done = run(tmp_path, ADD)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "12"), done.stderr
    assert (tmp_path / "out" / "result.txt").read_text().splitlines()[-1] == "12"
    assert json.loads((tmp_path / "out" / "result.done").read_text())["input"] is None


def test_run_add_takes_its_arguments_from_the_environment(tmp_path: Path) -> None:
    """``ADD_X`` and ``ADD_Y``."""
    done = run(tmp_path, ADD, ADD_X="40", ADD_Y="2")
    assert done.stdout.splitlines()[-1] == "42"


@pytest.mark.parametrize("variables", [{"ARGS_JSON": "[12]"}, {"ARG_0": "12"}])
def test_run_takes_entry_and_arguments_from_the_environment(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """``ENTRY`` with ``ARGS_JSON`` or ``ARG_0``."""
    done = run(tmp_path, FIB, ENTRY="fib", **variables)
    assert done.stdout.splitlines()[-1] == "144"


def test_run_with_an_input_file_prefers_it_and_prints_json(tmp_path: Path) -> None:
    """``INPUT_PATH``, and an ``OUTPUT_PATH`` that ends in ``.json``."""
    (tmp_path / "input.json").write_text('{"entry":"fib","args":[12]}')
    output = str(tmp_path / "out" / "answer.json")
    done = run(tmp_path, FIB, ARG_0="3", OUTPUT_PATH=output)
    assert done.stdout == '{"entry":"fib","args":[12],"results":[144]}\n'
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "answer.done",
        "answer.json",
        "answer.txt",
    ]


def test_run_past_its_timeout_has_its_own_exit_status(tmp_path: Path) -> None:
    """The first executor ignored ``TIMEOUT_SEC``."""
    started = time.monotonic()
    done = run(tmp_path, SPIN, TIMEOUT_SEC="0.5")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (124, "error")
    assert time.monotonic() - started < 30
    assert json.loads((tmp_path / "out" / "result.json").read_text())["error"]["code"] == "timeout"


def test_run_that_fails_has_an_exit_status_for_each_cause(
    tmp_path: Path,
) -> None:
    """1 for the job or a missing module, 2 for the settings, and a message on standard error."""
    done = run(tmp_path / "a", FIB, ENTRY="fib", ARGS_JSON="[]")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "error")
    missing = run(tmp_path / "b", None, WASMDROP_MODULE_WAIT_SEC="0.1")
    assert missing.returncode == 1
    assert "module-missing" in missing.stdout
    wrong = run(tmp_path / "c", ADD, TIMEOUT_SEC="soon")
    assert wrong.returncode == 2
    assert "TIMEOUT_SEC" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1


def test_run_without_a_usable_state_directory_runs_the_job(tmp_path: Path) -> None:
    """A daemon may hold it."""
    state = tmp_path / "state"
    (state / "lock").mkdir(parents=True)
    done = run(tmp_path, ADD)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "12"), done.stderr
