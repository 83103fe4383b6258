"""Run the producers of docs/producers.md, as they stand there, against a real daemon."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import DEADLINE_SECONDS, Daemon, drop
from tests.support.fib import FIB
from tests.support.require import require_tools, require_users
from tests.support.users import ALICE, DAEMON, as_user, shared_base
from tests.support.wasi_programs import FILE_PROGRAMS, FILES
from wasmdrop.client import submit

PAGE: Final = Path(__file__).parents[2] / "docs" / "producers.md"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon with the module that the page calls."""
    it = Daemon(tmp_path_factory.mktemp("producers"))
    drop(it.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
    with it.running():
        yield it


def snippet(language: str) -> str:
    """Return the page's producer in a language."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(found) == 1
    return found[0]


def test_shell_producer_prints_the_raw_value(daemon: Daemon) -> None:
    """Twice, with its own slot each time; it needs only a POSIX shell and coreutils."""
    for _ in range(2):
        done = subprocess.run(
            ["sh", "-eu", "-c", snippet("sh")],
            env={"PATH": os.environ["PATH"], "SHARED": str(daemon.shared)},
            capture_output=True,
            check=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        )
        assert (done.stdout, done.stderr) == ("144\n", "")


def test_shell_producer_reports_a_failure(daemon: Daemon) -> None:
    """By the last line of the text."""
    failing = snippet("sh").replace('"args":[12]', '"args":[1.5]')
    done = subprocess.run(
        ["sh", "-eu", "-c", failing],
        env={"PATH": os.environ["PATH"], "SHARED": str(daemon.shared)},
        capture_output=True,
        check=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert done.stdout == "error\n"


@pytest.fixture
def blind_daemon() -> Iterator[Daemon]:
    """Give a daemon whose user may not read files of other users."""
    require_users()
    with shared_base() as base:
        it = Daemon(base)
        it.prefix = as_user(DAEMON)
        it.shared.chmod(0o777)
        it.state.mkdir()
        os.chown(it.state, DAEMON, DAEMON)
        drop(it.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
        with it.running():
            yield it


UNREADABLE: Final = "the daemon may not read it"


def test_shell_producer_reports_an_input_that_the_daemon_may_not_read(
    blind_daemon: Daemon,
) -> None:
    """The marker has no digest to wait for."""
    done = subprocess.run(
        [*as_user(ALICE), "sh", "-euc", f"umask 077\n{snippet('sh')}"],
        env={"PATH": os.environ["PATH"], "SHARED": str(blind_daemon.shared)},
        capture_output=True,
        check=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert (done.stdout, done.stderr) == ("error\n", "")


def test_client_reports_an_input_that_the_daemon_may_not_read(blind_daemon: Daemon) -> None:
    """As `wasmdrop submit --wait` does."""
    options = ["--shared-dir", str(blind_daemon.shared), "--entry", "fib", "--args", "[12]"]
    command = [sys.executable, "-m", "wasmdrop", "submit", *options, "--module", "fib", "--wait"]
    done = subprocess.run(
        [*as_user(ALICE), "sh", "-c", 'umask 077; exec "$@"', "sh", *command],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 1, done
    assert UNREADABLE in done.stdout


def test_go_producer_reports_an_input_that_the_daemon_may_not_read(
    blind_daemon: Daemon, tmp_path: Path
) -> None:
    """It ends with the daemon's message."""
    (program,) = built(tmp_path, snippet("go"))
    where = blind_daemon.shared.parent / "producer"
    shutil.copy(program, where)
    done = subprocess.run(
        [*as_user(ALICE), "sh", "-c", f"umask 077; {where} {blind_daemon.shared}"],
        capture_output=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 1
    assert UNREADABLE.encode() in done.stderr


def built(base: Path, *sources: str) -> list[Path]:
    """Return the programs that Go builds from these sources."""
    require_tools("go")
    environment = os.environ | {"GOTOOLCHAIN": "local", "GO111MODULE": "off"}
    programs = []
    for number, text in enumerate(sources):
        source = base / str(number) / "main.go"
        source.parent.mkdir()
        source.write_text(text)
        programs.append(base / f"{number}.bin")
        build = ["go", "build", "-o", str(programs[-1]), str(source)]
        subprocess.run(build, env=environment, check=True, timeout=300)
    return programs


def test_go_producer_prints_the_result(daemon: Daemon, tmp_path: Path) -> None:
    """And ends with a message if the job fails."""
    failing = snippet("go").replace('"args":[12]', '"args":[1.5]')
    good, bad = built(tmp_path, snippet("go"), failing)
    done = subprocess.run(
        [good, daemon.shared],
        capture_output=True,
        check=True,
        timeout=DEADLINE_SECONDS,
    )
    assert json.loads(done.stdout) == {"entry": "fib", "args": [12], "results": [144]}
    done = subprocess.run(
        [bad, daemon.shared],
        capture_output=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 1
    assert b"invalid-args: args[0]: expected" in done.stderr


def test_client_returns_all_output_and_removes_its_slot(daemon: Daemon) -> None:
    """With a module of the job's own, in a directory of its own, of which nothing stays."""
    program = bytes(wat2wasm(f"(module {FILES} {FILE_PROGRAMS['work']})"))
    before = sorted(daemon.shared.rglob("*"))
    spec = {"files": {"data/in.txt": "x"}}
    with submit(daemon.shared, spec, module=program) as job:
        result = job.result(DEADLINE_SECONDS)
        assert result.code == "ok", result.message
        expected = {"data/in.txt": b"x", "out/answer.txt": b"42\n", "top": b"x"}
        assert result.output == expected
        assert job.marker_path.exists()
    assert sorted(daemon.shared.rglob("*")) == before


def test_client_removes_nothing_of_other_slots(daemon: Daemon) -> None:
    """Even if one name is a prefix of the other."""
    spec = {"module": "fib", "entry": "fib", "args": [12]}
    other = submit(daemon.shared, spec, "batch/one.two")
    other.result(DEADLINE_SECONDS)
    with submit(daemon.shared, spec, "batch/one") as job:
        assert job.result(DEADLINE_SECONDS).results == (144,)
    left = {path.name for path in (daemon.shared / "batch").iterdir()}
    names = ("input-one.two.json", *(f"result-one.two{end}" for end in (".json", ".txt", ".done")))
    assert left == set(names)
    other.remove()


def test_client_that_leaves_its_block_early_removes_the_input(
    daemon: Daemon,
) -> None:
    """An error that ends the block is raised."""
    with (
        pytest.raises(TimeoutError),
        submit(daemon.shared, {"module": "no-such", "entry": "fib"}) as job,
    ):
        job.result(0)
    assert not job.input_path.exists()


def test_python_producer_prints_the_values(daemon: Daemon) -> None:
    """As it stands there, except for the directory."""
    code = snippet("python").replace("host/shared", str(daemon.shared))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert done.stdout == "(144,)\n"
