"""``wasmdrop init`` makes all that its next commands need."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.require import require_root
from tests.support.users import ALICE, as_user, shared_base

ROOT = Path(__file__).parents[2]
MADE = ("wasm", "shared", "state", "config.toml", "wasm/fib.wasm")


def init(
    *words: str, cwd: Path, umask: int = 0o022, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [*prefix, sys.executable, "-m", "wasmdrop", "init", *words]
    return subprocess.run(
        command,
        cwd=cwd,
        umask=umask,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def environment() -> dict[str, str]:
    """Return the environment of a new user: no setting, no file."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}


def commands(output: str) -> list[list[str]]:
    """Return the words of the commands that were printed, as a shell reads them."""
    return [shlex.split(line) for line in output.splitlines() if line.startswith("  ")]


def modes(top: Path) -> dict[str, int]:
    """Return the permissions of everything that was made."""
    return {name: (top / name).stat().st_mode & 0o777 for name in MADE}


@pytest.mark.parametrize("name", ["demo", "a b'c", "-x"])
def test_printed_commands_run_the_example(tmp_path: Path, name: str) -> None:
    """As they are, from the same directory."""
    words = ("--", name) if name.startswith("-") else (name,)
    done = init(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    serve, submit = commands(done.stdout)
    with subprocess.Popen(
        serve, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    ) as daemon:
        try:
            sent = subprocess.run(
                submit, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
            )
        finally:
            daemon.terminate()
            said = daemon.communicate()[1]
    assert sent.returncode == 0, said
    assert json.loads(sent.stdout)["results"] == [144]
    assert (tmp_path / name / "state/journal.sqlite").exists()


def test_second_run_keeps_everything(tmp_path: Path) -> None:
    """Nothing is overwritten, and each thing is named."""
    first = init(cwd=tmp_path)
    assert [line for line in first.stdout.splitlines() if line.startswith("made ")] == [
        f"made {name}" for name in MADE
    ]
    config = tmp_path / "config.toml"
    config.write_text('wasm_dir = "wasm"\nshared_dir = "shared"\nstate_dir = "state"\n')
    (tmp_path / "wasm/fib.wasm").write_bytes(b"mine")
    (tmp_path / "state").chmod(0o750)
    second = init(cwd=tmp_path)
    assert second.returncode == 0
    assert [line for line in second.stdout.splitlines() if line.startswith("kept ")] == [
        f"kept {name}" for name in MADE
    ]
    assert config.read_text().startswith('wasm_dir = "wasm"\nshared')
    assert (tmp_path / "wasm/fib.wasm").read_bytes() == b"mine"
    assert modes(tmp_path)["state"] == 0o750


@pytest.mark.parametrize(("umask", "mode"), [(0o000, 0o755), (0o077, 0o700), (0o022, 0o755)])
def test_permissions_do_not_depend_on_a_wide_umask(tmp_path: Path, umask: int, mode: int) -> None:
    """Other users can't write anything; a narrow umask holds."""
    top = tmp_path / "above" / "demo"
    assert init(str(top), cwd=tmp_path, umask=umask).returncode == 0
    assert (top.stat().st_mode & 0o777, top.parent.stat().st_mode & 0o777) == (mode, mode)
    file_mode = mode & 0o644
    expected = (mode, mode, 0o700, file_mode, file_mode)
    assert modes(top) == dict(zip(MADE, expected, strict=True))


def test_directory_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    """In one line."""
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below"):
        done = init(name, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == f"wasmdrop: {name}: can't be made: " + (
            "File exists\n" if name == "file" else "Not a directory\n"
        )
        assert done.stdout == ""


def test_ordinary_user_can_use_it_and_gets_one_line_if_not_allowed() -> None:
    """Without rights in the directory of another user."""
    require_root()
    with shared_base() as base:
        own = base / "own"
        own.mkdir()
        os.chown(own, ALICE, ALICE)
        assert init("demo", cwd=own, prefix=as_user(ALICE)).returncode == 0
        refused = init("demo", cwd=base, prefix=as_user(ALICE))
        assert refused.returncode == 2
        assert refused.stderr == "wasmdrop: demo: can't be made: Permission denied\n"


def test_directory_that_others_can_write_to_is_refused_after_all_is_made(tmp_path: Path) -> None:
    """The daemon would refuse the file, and this command says so first."""
    tmp_path.chmod(0o777)
    done = init(cwd=tmp_path)
    assert done.returncode == 2
    assert f"other users can write to the directory {tmp_path}" in done.stderr
    assert (tmp_path / "config.toml").exists()


def test_example_module_is_that_of_the_examples() -> None:
    """The package has a copy, because an installation has no compiler for its text."""
    source = (ROOT / "examples/fib/fib.wat").read_text(encoding="utf-8")
    module = ROOT / "daemon/wasmdrop/cli/fib.wasm"
    assert module.read_bytes() == bytes(wat2wasm(source))
