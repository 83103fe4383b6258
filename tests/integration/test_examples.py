"""The examples, built by their compilers, run by the daemon.

`examples/build.py` builds them; continuous integration has every compiler.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.guests import running_in
from tests.support.require import require

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
EXPECTED = {"add": [12], "affine": [119], "fib": [144]}
FUNCTIONS = [f"{name}-{language}" for name in EXPECTED for language in ("c", "go", "ts", "wat")]
COMMANDS = ["wordcount-c", "wordcount-go", "wordcount-rs"]
COMPONENTS = ["python-py", "summarize-js", "summarize-py"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the examples that this machine has compilers for; reuse earlier builds."""
    done = EXAMPLES / "build"
    if all((done / f"{name}.wasm").exists() for name in FUNCTIONS + COMMANDS + COMPONENTS):
        return done
    out = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, EXAMPLES / "build.py", "--out", out], check=True)
    return out


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one daemon for all examples."""
    # CPython takes 7 s to compile on a core of its own, and tests share theirs.
    it = Daemon(
        tmp_path_factory.mktemp("examples"),
        WASMDROP_COMPILE_SEC="300",
        # The daemon of the second guest finds the modules compiled.
        WASMDROP_STATE_DIR=str(tmp_path_factory.getbasetemp() / "state-of-examples"),
    )
    with running_in(guest, it):
        yield it


def install(daemon: Daemon, built: Path, name: str) -> None:
    """Drop one example's module."""
    module = built / f"{name}.wasm"
    require(module.exists(), f"a compiler for {name}")
    temporary = daemon.wasm / f".{name}"
    shutil.copy(module, temporary)
    temporary.rename(daemon.wasm / f"{name}.wasm")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_example_function_of_each_compiler_gives_its_result(
    daemon: Daemon, built: Path, name: str
) -> None:
    """With the example's own input."""
    install(daemon, built, name)
    example = name.split("-", maxsplit=1)[0]
    given = json.loads((EXAMPLES / example / "input.json").read_text())
    daemon.submit(f"input-{name}.json", given | {"module": name})
    assert daemon.result(f"input-{name}.json")["results"] == EXPECTED[example]


@pytest.mark.parametrize("name", COMMANDS)
def test_example_command_of_each_compiler_reads_arguments_and_standard_input(
    daemon: Daemon, built: Path, name: str
) -> None:
    """And writes standard output, and exits."""
    install(daemon, built, name)
    given = json.loads((EXAMPLES / "wordcount" / "input.json").read_text())
    daemon.submit(f"input-{name}.json", given | {"module": name})
    result = daemon.result(f"input-{name}.json")
    assert (result["stdout"], result["exit_code"], result["results"]) == ("3\n", 0, [])
    assert daemon.result_path(f"input-{name}.json", ".stdout").read_text() == "3\n"

    marker = daemon.submit(f"input-{name}-bad.json", {"module": name, "args": ["--no-such"]})
    result = daemon.result(f"input-{name}-bad.json")
    assert (marker["code"], result["exit_code"]) == ("exit", 2)
    assert "--no-such" in result["stderr"]
    text = daemon.result_path(f"input-{name}-bad.json", ".txt").read_text()
    assert text.splitlines()[-1] == "2"


@pytest.mark.parametrize("name", ["summarize-py", "summarize-js"])
def test_example_component_takes_a_list_and_returns_a_record(
    daemon: Daemon, built: Path, name: str
) -> None:
    """18 MB of CPython and 12 MB of SpiderMonkey, each compiled once."""
    install(daemon, built, name)
    given = json.loads((EXAMPLES / "summarize" / "input.json").read_text())
    daemon.submit(f"input-{name}.json", given | {"module": name})
    assert daemon.result(f"input-{name}.json")["results"] == [
        {"count": 8, "mean": 5.0, "deviation": 2.0, "largest": 9.0}
    ]
    daemon.submit(f"input-{name}.json", {"module": name, "entry": "summarize", "args": [[]]})
    assert daemon.result(f"input-{name}.json")["results"] == [
        {"count": 0, "mean": 0.0, "deviation": 0.0, "largest": None}
    ]


def test_example_python_script_reads_and_writes_files(daemon: Daemon, built: Path) -> None:
    """CPython as a command of WASI 0.2; the script and its data are the job's files."""
    install(daemon, built, "python-py")
    given = json.loads((EXAMPLES / "python" / "input.json").read_text())
    daemon.submit("input-python.json", given | {"module": "python-py"})
    result = daemon.result("input-python.json")
    assert (result["stdout"], result["stderr"], result["exit_code"]) == ("2 rows\n", "", 0)
    output = daemon.shared / "result-python.output"
    assert json.loads((output / "total.json").read_text()) == {"total": 3.75}
    assert sorted(path.name for path in output.iterdir()) == sorted([*given["files"], "total.json"])

    failing = {"module": "python-py", "args": ["a.py"], "files": {"a.py": "1 / 0"}}
    marker = daemon.submit("input-python-fails.json", failing)
    assert marker["code"] == "exit"
    assert "ZeroDivisionError" in daemon.result("input-python-fails.json")["stderr"]


def test_build_of_a_program_that_only_uses_modules_is_refused() -> None:
    """The relayer and the coordinator are programs, not modules."""
    words = [sys.executable, str(EXAMPLES / "build.py"), "--only", "relayer"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "invalid choice: 'relayer'" in done.stderr


RUSTC = """\
#!/bin/sh
case "$*" in
*target-list*) printf '%s\\n' wasm32-unknown-unknown {known} ;;
*target-libdir*) [ "$4" = {known} ] && echo {libraries} ;;
*) echo "$*" >{base}/arguments; for last; do [ "$before" = -o ] && : >"$last"; before=$last; done ;;
esac
"""


def build_with(base: Path, known: str, libraries: Path) -> "subprocess.CompletedProcess[str]":
    """Build the Rust example with a rustc that has one target for WASI and its libraries there."""
    rustc = base / "rustc"
    rustc.write_text(RUSTC.format(known=known, libraries=libraries, base=base))
    rustc.chmod(0o755)
    words = [sys.executable, str(EXAMPLES / "build.py"), "--only", "wordcount/rs"]
    words += ["--require", "rs", "--out", str(base / "out")]
    path = f"{base}:{os.environ['PATH']}"
    return subprocess.run(
        words, check=False, capture_output=True, text=True, env=os.environ | {"PATH": path}
    )


@pytest.mark.parametrize("known", ["wasm32-wasi", "wasm32-wasip1"])
def test_build_of_rust_uses_the_target_name_that_rustc_knows(tmp_path: Path, known: str) -> None:
    """Debian 12 has only the old name; rustc 1.84 and later have only the new one."""
    done = build_with(tmp_path, known, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"--target {known} " in (tmp_path / "arguments").read_text()


def test_build_of_rust_without_its_library_names_the_command_that_adds_it(tmp_path: Path) -> None:
    """Rustup installs no library of another target by itself."""
    done = build_with(tmp_path, "wasm32-wasip1", tmp_path / "missing")
    assert done.returncode == 1
    assert "rustup target add wasm32-wasip1" in done.stderr
