"""A daemon of root whose program lies where only root may look."""

import shutil
from pathlib import Path

import wasmtime

import wasmdrop
from tests.support.fib import with_fib
from tests.support.guests import running_in
from tests.support.require import require_native_program, require_root


def test_installation_that_only_root_may_enter_runs_jobs_in_the_native_program(
    tmp_path: Path,
) -> None:
    """The user of the jobs can't look up the program and wasmtime's library: a root's home."""
    require_root()
    require_native_program()
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for package in (wasmdrop, wasmtime):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, private / source.name)
    with running_in("native", with_fib(tmp_path, PYTHONPATH=str(private))) as daemon:
        for number in range(3):
            assert daemon.submit("input.json", {"entry": "fib", "args": [number]})["code"] == "ok"
