"""WASI commands with files: input files, output files, and attempts of a hostile guest."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from tests.support.commands import command
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import with_fib
from tests.support.guests import running_in
from tests.support.outcomes import Run, faults
from tests.support.wasi_programs import FILE_PROGRAMS, FILES
from wasmdrop.protocol.limits import MEBIBYTE


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one running daemon with all programs."""
    it = with_fib(tmp_path_factory.mktemp("files"))
    for name, body in FILE_PROGRAMS.items():
        drop(it.wasm / f"{name}.wasm", bytes(wat2wasm(f"(module {FILES} {body})")))
    with running_in(guest, it):
        yield it


@pytest.fixture(autouse=True)
def _nothing_stays(daemon: Daemon) -> Iterator[None]:
    """Check after each case that no job directory remains and no fault was logged."""
    before = len(faults(daemon))
    yield
    jobs = daemon.state / "jobs"
    wait_until(lambda: not any(jobs.glob("*/*")), "the jobs' directories to be removed")
    wait_until(lambda: not list(daemon.shared.glob(".wasmdrop-*")), "temporaries to be removed")
    assert faults(daemon)[before:] == []


def output_of(daemon: Daemon, slot: str) -> dict[str, bytes] | None:
    """Return the published output of a slot; None if there is none."""
    root = daemon.shared / f"result-{slot}.output"
    if not root.exists():
        return None
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_files_of_an_input_go_in_and_output_files_come_out(daemon: Daemon) -> None:
    """Text and bytes, in directories; every file at the end, with size and digest."""
    given = {"data/in.txt": "héllo", "raw": {"base64": "AP8="}}
    run = Run(daemon, "work", "work", files=given)
    assert run.code == "ok", run.message
    assert run.result["stdout"] == "héllo"
    expected = {
        "data/in.txt": "héllo".encode(),
        "raw": b"\0\xff",
        "out/answer.txt": b"42\n",
        "top": b"h",
    }
    assert output_of(daemon, "work") == expected
    assert {name for name in run.marker["files"] if "/" in name} == {
        f"result-work.output/{name}" for name in expected
    }


def test_content_ids_in_the_marker_are_those_that_the_command_prints(daemon: Daemon) -> None:
    """Of every result file, the output directory, the input and the module."""
    large = "x" * (MEBIBYTE + 1)
    run = Run(daemon, "cids", "work", files={"data/in.txt": "x", "large": large, ".hidden": ""})
    marker = run.marker
    stated = {name: entry["cid"] for name, entry in marker["files"].items()}
    assert "result-cids.output/large" in stated
    stated["result-cids.output"] = marker["output"]["cid"]
    stated["input-cids.json"] = marker["input"]["cid"]
    module = str(daemon.wasm / "work.wasm")
    done = subprocess.run(
        command("cid", *stated, module),
        cwd=daemon.shared,
        capture_output=True,
        check=True,
        text=True,
    )
    printed = dict(line.split("  ")[::-1] for line in done.stdout.splitlines())
    assert printed == stated | {module: marker["module"]["cid"]}


def test_output_of_an_earlier_job_is_replaced(daemon: Daemon) -> None:
    """By another output, and by none: a slot keeps nothing of an earlier job."""
    Run(daemon, "again", "work", files={"data/in.txt": "x", "only-now": ""})
    assert "only-now" in (output_of(daemon, "again") or {})
    Run(daemon, "again", "work", files={"data/in.txt": "x"})
    assert set(output_of(daemon, "again") or {}) == {"data/in.txt", "out/answer.txt", "top"}
    Run(daemon, "again", "idle")
    assert output_of(daemon, "again") is None
    Run(daemon, "again", "work", files={"data/in.txt": "x"})
    Run(daemon, "again", "module", entry="fib", args=[1])
    assert output_of(daemon, "again") is None


@pytest.mark.parametrize(("program", "code"), [("fails", "exit"), ("hangs", "timeout")])
def test_output_of_a_failed_program_is_kept(daemon: Daemon, program: str, code: str) -> None:
    """Like its captured output: it may tell why."""
    run = Run(daemon, program, program, timeout_sec=0.5)
    assert run.code == code
    assert output_of(daemon, program) == {"left": b"left"}


def test_function_that_imports_wasi_files_may_have_files(daemon: Daemon) -> None:
    """Where it imports WASI's functions of files."""
    run = Run(daemon, "function", "function", files={"a": "12345"})
    assert run.result["results"] == [5]
    assert output_of(daemon, "function") == {"a": b"12345"}


def test_files_for_a_module_without_wasi_files_are_refused(daemon: Daemon) -> None:
    """They are not ignored in silence."""
    run = Run(daemon, "plain", "module", entry="fib", args=[1], files={"a": ""})
    assert run.code == "invalid-input"
    assert run.message.startswith("$.files: ")


def test_files_beyond_the_limit_are_refused(daemon: Daemon) -> None:
    """The message has both numbers."""
    run = Run(daemon, "too-much", "idle", files={"a": "x" * 1_048_577}, disk_mb=1)
    assert run.code == "invalid-input"
    assert "1048577" in run.message
    assert "1048576" in run.message


def test_output_links_and_special_files_are_reported_and_not_published(daemon: Daemon) -> None:
    """Links are not followed, and a published input is no drop."""
    run = Run(daemon, "odd", "odd")
    assert run.code == "ok"
    assert output_of(daemon, "odd") == {"input.json": b"{}"}
    assert not (daemon.shared / "result-odd.output" / "out").is_symlink()
    assert '"out" (a link)' in run.message
    assert '"a\\nb" (a name with control characters)' in run.message
    Run(daemon, "after-odd", "idle")
    assert not (daemon.shared / "result-odd.output" / "result.done").exists()


def test_program_that_opens_a_path_outside_its_directory_fails(daemon: Daemon) -> None:
    """WASI refuses it; the tests of the confinement try the layer below."""
    run = Run(daemon, "escape", "escape")
    assert run.code == "exit"
    assert run.result["exit_code"] == 63  # EPERM, "operation not permitted", in WASI's numbers
    assert not list(daemon.state.rglob("x"))


@pytest.mark.parametrize("program", ["large", "sparse", "many", "empty-files", "deep"])
def test_program_past_its_file_limit_is_ended(daemon: Daemon, program: str) -> None:
    """By bytes in one file or in many, by holes, by the number of files, by depth."""
    run = Run(daemon, program, program, disk_mb=1)
    assert run.code == "disk-limit"
    assert run.message
    assert run.raw_value == "error"
    assert output_of(daemon, program) is None


def test_job_directories_of_a_killed_daemon_are_removed_at_start(tmp_path: Path) -> None:
    """However deep, and half-published outputs as well."""
    daemon = Daemon(tmp_path)
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(f"(module {FILES} {FILE_PROGRAMS['hangs']})")))
    daemon.start()
    drop(daemon.shared / "input.json", {"timeout_sec": 2})
    jobs = daemon.state / "jobs"
    wait_until(lambda: list(jobs.glob("*/*/left")), "the job to write")
    daemon.kill()
    deep = jobs / "deep"
    deep.mkdir()
    home = os.open(".", os.O_RDONLY)
    try:
        os.chdir(deep)
        for _ in range(3000):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.fchdir(home)
        os.close(home)
    staged = daemon.shared / ".wasmdrop-0123456789-0"
    (staged / "inner").mkdir(parents=True)
    staged.chmod(0o1700)  # as the daemon marks its own
    foreign = daemon.shared / ".wasmdrop-0123456789-1"
    (foreign / "inner").mkdir(parents=True)
    drop(daemon.shared / "input.json", {"timeout_sec": 0.2})
    daemon.start()
    wait_until(lambda: daemon.marker("input.json"), "the job to end")
    assert not deep.exists()
    assert not staged.exists()
    assert (foreign / "inner").is_dir()
    wait_until(lambda: not any(jobs.glob("*/*")), "the jobs' directories to be removed")
    assert daemon.stop() == 0


def test_output_name_that_is_taken_does_not_keep_the_result_away(daemon: Daemon) -> None:
    """A link is replaced and not followed; a file too."""
    target = daemon.shared / "elsewhere"
    target.mkdir()
    (target / "kept").touch()
    place = daemon.shared / "result-stranger.output"
    place.symlink_to(target)
    arguments: dict[str, Any] = {"files": {"data/in.txt": "x"}}
    Run(daemon, "stranger", "work", **arguments)
    assert not place.is_symlink()
    assert (place / "top").read_bytes() == b"x"
    assert (target / "kept").exists()
    Run(daemon, "stranger", "idle")
    place.write_text("a file")
    Run(daemon, "stranger", "work", **arguments)
    assert (place / "top").read_bytes() == b"x"
