"""The example coordinator, as a user starts it: tasks by content id, one job each, cleaned up."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any, Final

import pytest
from examples.relayer.gateway import Gateway
from wasmtime import wat2wasm

from tests.support.daemon import DEADLINE_SECONDS, Daemon, drop, environment, wait_until
from tests.support.examples import EXAMPLES
from tests.support.fib import FIB
from tests.support.gateway import running
from wasmdrop.unixfs.files import FileImporter
from wasmdrop.unixfs.profiles import PROFILES, Profile

FIB_MODULE: Final = bytes(wat2wasm(FIB))
TRAP_MODULE: Final = bytes(wat2wasm('(module (func (export "fib") (param i64) unreachable))'))
#: Another file that is the same function: a custom section makes the difference.
RENAMED_MODULE: Final = FIB_MODULE + b"\0\2\1x"
#: The input of the task of a coordinator that is killed.
DROPPED: Final = "coordinator/killed-*/input.json"
TWELVE: Final = {"entry": "fib", "args": [12]}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """Give a gateway that has the two modules."""
    with running(Gateway()) as it:
        yield it


@pytest.fixture(scope="module")
def fib(gateway: Gateway) -> str:
    """Return the content id of a module that the gateway has."""
    return gateway.add(FIB_MODULE)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give a running daemon without modules."""
    it = Daemon(tmp_path_factory.mktemp("host"))
    with it.running():
        yield it


@pytest.fixture
def untouched(daemon: Daemon) -> Iterator[None]:
    """Check that nothing stays of the test's tasks."""
    before = files_of(daemon)
    yield
    assert files_of(daemon) == before


def files_of(daemon: Daemon) -> list[Path]:
    """Return the files in the wasm and the shared directory, except for locks."""
    found = (path for root in (daemon.wasm, daemon.shared) for path in root.rglob("*"))
    return sorted(path for path in found if path.is_file() and not path.name.endswith(".lock"))


def command(daemon: Daemon, gateway: Gateway, *words: str) -> list[str]:
    """Return the command line of the coordinator, which reads tasks from standard input."""
    program = str(EXAMPLES / "coordinator/coordinator.py")
    host = ["--host", str(daemon.shared.parent), "--gateway", gateway.url]
    return [sys.executable, program, "-", *host, *words]


def coordinate(
    daemon: Daemon,
    gateway: Gateway,
    *tasks: dict[str, Any] | str,
    timeout: float = DEADLINE_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run the coordinator on tasks."""
    lines = (task if isinstance(task, str) else json.dumps(task) for task in tasks)
    return subprocess.run(
        command(daemon, gateway, "--timeout", str(timeout)),
        input="\n".join(lines),
        env=environment(),
        capture_output=True,
        check=False,
        text=True,
        timeout=2 * DEADLINE_SECONDS,
    )


def task(name: str, module: str, **changes: Any) -> dict[str, Any]:
    """Return a task."""
    return {"id": name, "module": module, "input": TWELVE | changes}


@pytest.mark.usefixtures("untouched")
def test_coordinator_prints_the_last_line_of_each_task(
    daemon: Daemon, gateway: Gateway, fib: str
) -> None:
    """In their order; the module is fetched once and removed after its last task."""
    done = coordinate(daemon, gateway, task("a", fib), task("b", fib, args=[20]))
    assert (done.returncode, done.stdout, done.stderr) == (0, "a 144\nb 6765\n", "")


@pytest.mark.usefixtures("untouched")
def test_coordinator_goes_on_after_tasks_that_fail(
    daemon: Daemon, gateway: Gateway, fib: str
) -> None:
    """Each failure is one line: of the job, of the module, of the input."""
    trap = gateway.add(TRAP_MODULE)
    missing = "bafkreigks6arfsq3xxfpvqrrwonchxcnu6do76auprhhfomao6c273sixm"
    done = coordinate(
        daemon,
        gateway,
        task("trap", trap),
        task("missing", missing),
        task("no-cid", "fib"),
        task("strange", fib, speed=3),
        task("good", fib),
    )
    assert (done.returncode, done.stdout) == (1, "good 144\n")
    trap_line, missing_line, no_cid_line, strange_line = done.stderr.splitlines()
    assert trap_line.startswith("trap: trap: ")
    assert missing_line.startswith("missing: ")
    assert missing in missing_line
    assert no_cid_line.startswith("no-cid: ")
    assert "is not a CID" in no_cid_line
    assert strange_line.startswith("strange: invalid-input: ")
    assert "speed" in strange_line


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "line", ["{", "[]", '{"id":"a/b","module":"m","input":{}}', '{"id":"a","module":"m"}']
)
def test_coordinator_refuses_malformed_tasks_before_any_runs(
    daemon: Daemon, gateway: Gateway, fib: str, line: str
) -> None:
    """With one line."""
    done = coordinate(daemon, gateway, task("a", fib), line)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "line 2" in done.stderr


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda each: each.name)
def test_coordinator_uses_and_keeps_a_module_that_is_there(
    daemon: Daemon, gateway: Gateway, profile: Profile
) -> None:
    """The gateway does not have it. Its name may be a content id of any profile."""
    importer = FileImporter(profile)
    importer.update(RENAMED_MODULE)
    cid = importer.finish().cid.text
    path = daemon.wasm / f"{cid}.wasm"
    drop(path, RENAMED_MODULE)
    done = coordinate(daemon, gateway, task("a", cid))
    assert (done.returncode, done.stdout, done.stderr) == (0, "a 144\n", "")
    path.unlink()


def test_coordinator_refuses_a_module_without_the_content_id_in_its_name(
    daemon: Daemon, gateway: Gateway, fib: str
) -> None:
    """It may be another version."""
    path = daemon.wasm / f"{fib}.wasm"
    drop(path, RENAMED_MODULE)
    done = coordinate(daemon, gateway, task("a", fib))
    message = f"a: {path} does not have the content id in its name\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)
    path.unlink()


@pytest.fixture
def waiting(tmp_path: Path, gateway: Gateway, fib: str) -> Iterator[tuple[Daemon, Popen[str]]]:
    """Give a daemon that is not running, and a coordinator that waits for it."""
    daemon = Daemon(tmp_path)
    words = command(daemon, gateway)
    with subprocess.Popen(words, env=environment(), stdin=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        program.stdin.write(json.dumps(task("killed", fib)))
        program.stdin.close()
        wait_until(lambda: list(daemon.shared.glob(DROPPED)), "the coordinator to drop the input")
        yield daemon, program
        program.kill()


@pytest.mark.parametrize("again", ["killed", "other"])
def test_coordinator_after_a_killed_one_runs_its_tasks_and_cleans_up(
    waiting: tuple[Daemon, Popen[str]], gateway: Gateway, fib: str, again: str
) -> None:
    """Whether the tasks of the killed one are given again or not."""
    daemon, program = waiting
    program.kill()
    program.wait(DEADLINE_SECONDS)
    (dropped,) = daemon.shared.glob(DROPPED)
    with daemon.running():
        wait_until(dropped.with_name("result.done").exists, "the result of the killed coordinator")
        done = coordinate(daemon, gateway, task(again, fib))
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{again} 144\n", "")
    assert files_of(daemon) == []


def test_coordinator_beside_another_one_ends_with_a_message(
    waiting: tuple[Daemon, Popen[str]], gateway: Gateway, fib: str
) -> None:
    """It removes nothing of the other one."""
    daemon, _ = waiting
    before = files_of(daemon)
    done = coordinate(daemon, gateway, task("other", fib))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "another coordinator is running" in done.stderr
    assert files_of(daemon) == before
