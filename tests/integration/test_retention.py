"""Retention of inputs and results: archives, removal, and files that stay."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.commands import listed, run
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB, GOOD, with_fib

INVALID: Final = '{"entry"'
NO_SUCH_ENTRY: Final = '{"entry": "nope"}'

#: Age at which results are removed, in days: just under a second.
SHORT_DAYS: Final = "0.00001"

OTHER_USER: Final = 4001

ARCHIVED: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{10}-(input.*\.json)")


def archived(directory: Path) -> dict[str, str]:
    """Return the inputs in an archive by their own names, with their content."""
    if not directory.is_dir():
        return {}
    found = {}
    for path in directory.iterdir():
        match = ARCHIVED.fullmatch(path.name)
        assert match, path
        found[match[1]] = path.read_text()
    return found


def until_gone(path: Path) -> None:
    """Wait until a file is gone."""
    wait_until(lambda: not os.path.lexists(path), f"{path} to go")


@pytest.fixture
def archiver(tmp_path: Path) -> Iterator[Daemon]:
    """Give a running daemon that archives inputs."""
    with with_fib(tmp_path, WASMDROP_AFTER="archive").running() as it:
        yield it


def test_archive_sorts_inputs_by_status(archiver: Daemon) -> None:
    """Beside the input; results stay in the slot."""
    shared = archiver.shared
    good = archiver.submit("input-good.json", GOOD)
    bad = archiver.submit("deep/er/input.json", INVALID)
    until_gone(shared / "input-good.json")
    until_gone(shared / "deep/er/input.json")
    assert archived(shared / "done") == {"input-good.json": GOOD}
    assert archived(shared / "deep/er/failed") == {"input.json": INVALID}
    assert (shared / "done" / f"{good['job']}-input-good.json").exists()
    assert archiver.marker("deep/er/input.json") == bad
    assert archiver.result("input-good.json")["results"] == [144]
    assert len(listed(archiver, "--slot", "input-good.json")) == 1


def test_archive_leaves_an_input_that_a_new_module_reruns(archiver: Daemon) -> None:
    """And takes it when that job is done."""
    drop(archiver.wasm / "late.wasm", b"no module")
    content = '{"entry":"fib","args":[12],"module":"late"}'
    archiver.submit("input-a.json", content)
    archiver.submit("input-b.json", GOOD)
    until_gone(archiver.shared / "input-b.json")
    assert (archiver.shared / "input-a.json").read_text() == content
    drop(archiver.wasm / "late.wasm", bytes(wat2wasm(FIB)))
    until_gone(archiver.shared / "input-a.json")
    assert archived(archiver.shared / "done")["input-a.json"] == content
    assert archiver.result("input-a.json")["results"] == [144]


def test_archive_at_start_takes_inputs_of_earlier_jobs(tmp_path: Path) -> None:
    """Inputs that were done before the setting was on; not unread drops, and not links."""
    daemon = with_fib(tmp_path)
    real = tmp_path / "shared" / "real"
    real.write_text(GOOD)
    (daemon.shared / "input-link.json").symlink_to("real")
    with daemon.running():
        daemon.submit("input-a.json", GOOD)
        daemon.wait_for("input-link.json", GOOD.encode())
    daemon.environment["WASMDROP_AFTER"] = "archive"
    drop(daemon.shared / "input-b.json", INVALID)
    with daemon.running():
        until_gone(daemon.shared / "input-a.json")
        until_gone(daemon.shared / "input-b.json")
        daemon.until_logged("inputs-withdrawn")
        assert len(listed(daemon, "--slot", "input-a.json")) == 1
    assert archived(daemon.shared / "done") == {"input-a.json": GOOD}
    assert archived(daemon.shared / "failed") == {"input-b.json": INVALID}
    assert (daemon.shared / "input-link.json").is_symlink()


def test_archive_never_takes_a_new_drop(archiver: Daemon) -> None:
    """A producer that drops the next input as soon as it sees the marker races with the archive."""
    count = 40
    for number in range(count):
        archiver.submit(
            "input-a.json", json.dumps({"entry": "fib", "args": [12], "id": f"{number}"})
        )
    until_gone(archiver.shared / "input-a.json")
    done = sorted((archiver.shared / "done").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    ids = [json.loads(path.read_bytes())["id"] for path in done]
    assert ids == sorted(ids, key=int)
    assert ids[-1] == f"{count - 1}"
    codes = [job["code"] for job in listed(archiver, "--slot", "input-a.json")]
    assert codes == ["ok"] * count


def test_archive_that_is_impossible_leaves_the_input(tmp_path: Path) -> None:
    """The log says why, once for the directory."""
    daemon = with_fib(tmp_path, WASMDROP_AFTER="archive")
    (daemon.shared / "done").write_text("a file")
    with daemon.running():
        daemon.submit("input-a.json", GOOD)
        daemon.submit("input-b.json", GOOD)
        (line,) = daemon.until_logged("input-withdrawal-failed")
        assert line["directory"] == str(daemon.shared)
        daemon.submit("input-c.json", INVALID)
        until_gone(daemon.shared / "input-c.json")
    assert len(daemon.events("input-withdrawal-failed")) == 1
    assert (daemon.shared / "input-a.json").exists()
    assert (daemon.shared / "done").read_text() == "a file"


def test_remove_takes_inputs_of_jobs_that_succeeded(tmp_path: Path) -> None:
    """With their ready files. Inputs of failed jobs may be the only copy: they are archived."""
    daemon = with_fib(tmp_path, WASMDROP_AFTER="remove", WASMDROP_READY_SUFFIX=".ready")
    with daemon.running():
        for name in ("input-a.json", "input-b.json"):
            (daemon.shared / f"{name}.ready").touch()
        daemon.submit("input-a.json", GOOD)
        daemon.submit("input-b.json", INVALID)
        until_gone(daemon.shared / "input-a.json")
        until_gone(daemon.shared / "input-b.json")
        wait_until(lambda: not list(daemon.shared.glob("*.ready")), "the ready files to go")
    assert archived(daemon.shared / "failed") == {"input-b.json": INVALID}
    assert not (daemon.shared / "done").exists()
    assert not list(daemon.shared.glob(".removing-*"))


def test_retry_of_an_archived_input_says_where_it_is(archiver: Daemon) -> None:
    """--restore drops it again."""
    path = archiver.shared / "input-a.json"
    job = archiver.submit("input-a.json", GOOD)["job"]
    until_gone(path)
    wait_until(lambda: run(archiver, "retry", job).returncode == 1, "the job to be closed")
    refused = run(archiver, "retry", job)
    where = f"it is gone; done/{job}-input-a.json beside it has the job's input"
    assert f"{where}: --restore restores it" in refused.stderr
    assert run(archiver, "retry", "--restore", job).returncode == 0
    wait_until(lambda: len(archived_jobs(archiver)) == 2, "the second job to be archived")
    assert archived(archiver.shared / "done") == {"input-a.json": GOOD}


def archived_jobs(daemon: Daemon) -> list[str]:
    """Return the names in the archive of the shared directory."""
    return [path.name for path in (daemon.shared / "done").iterdir()]


def test_results_days_remove_finished_slots_and_nothing_else(tmp_path: Path) -> None:
    """Not results that others changed, unknown files, links, nor a forged marker's slot."""
    daemon = with_fib(tmp_path, WASMDROP_KEEP_RESULTS_DAYS="1", WASMDROP_AFTER="archive")
    shared = daemon.shared
    with daemon.running():
        for name in ("input-a.json", "x/input.json", "input-changed.json", "input-forged.json"):
            daemon.submit(name, GOOD)
            until_gone(shared / name)
        daemon.submit("input-module.json", NO_SUCH_ENTRY)
    (shared / "result-changed.txt").write_text("mine")
    (shared / "result-a.note").write_text("mine")
    (shared / "done" / "note.json").write_text("mine")
    (shared / "module.wasm").write_bytes(bytes(wat2wasm(FIB)))
    if os.geteuid() == 0:
        os.chown(shared / "result-forged.done", OTHER_USER, OTHER_USER)
    else:
        (shared / "result-forged.done").write_text("{}")
    daemon.environment["WASMDROP_KEEP_RESULTS_DAYS"] = SHORT_DAYS
    with daemon.running():
        until_gone(shared / "result-a.done")
        until_gone(shared / "input-module.json")
        until_gone(shared / "x/result.txt")
        wait_until(lambda: archived_jobs(daemon) == ["note.json"], "the archive to be emptied")
    left = {str(path.relative_to(shared)) for path in shared.rglob("*") if path.is_file()}
    kept = {f"result-{slot}.{suffix}" for slot in ("changed", "forged") for suffix in SUFFIXES}
    assert left == kept | {".wasmdrop.lock", "module.wasm", "result-a.note", "done/note.json"}


SUFFIXES: Final = ("json", "txt", "done")


def test_results_days_keep_a_slot_in_use(tmp_path: Path) -> None:
    """A drop that was not read yet, and one whose marker is of an earlier input."""
    daemon = with_fib(tmp_path, WASMDROP_READY_SUFFIX=".ready")
    shared = daemon.shared
    with daemon.running():
        for name in ("input-a.json", "input-b.json"):
            (shared / f"{name}.ready").touch()
            daemon.submit(name, GOOD)
    (shared / "input-b.json.ready").unlink()
    unread = '{"entry":"fib","args":[13]}'
    drop(shared / "input-b.json", unread)
    daemon.environment["WASMDROP_KEEP_RESULTS_DAYS"] = SHORT_DAYS
    with daemon.running():
        until_gone(shared / "result-a.done")
        until_gone(shared / "input-a.json.ready")
        assert (shared / "result-b.done").exists()
        assert (shared / "input-b.json").read_text() == unread
        (shared / "input-b.json.ready").touch()
        assert daemon.wait_for("input-b.json", unread.encode())["code"] == "ok"


def test_results_days_work_without_the_journal_of_the_jobs(tmp_path: Path) -> None:
    """Markers that are true and the daemon's are enough."""
    daemon = with_fib(tmp_path)
    with daemon.running():
        daemon.submit("input-a.json", GOOD)
    for path in daemon.state.glob("journal.sqlite*"):
        path.unlink()
    daemon.environment["WASMDROP_KEEP_RESULTS_DAYS"] = SHORT_DAYS
    with daemon.running():
        until_gone(daemon.shared / "input-a.json")
        until_gone(daemon.shared / "result-a.txt")
    assert not daemon.events("job-finished")[1:]


def test_retention_on_another_filesystem_waits_while_it_is_read_only(
    tmp_path: Path, small: Path
) -> None:
    """The log says so, the daemon goes on, and nothing is lost."""
    daemon = with_fib(tmp_path, WASMDROP_AFTER="archive")
    with daemon.running():
        daemon.submit("small/input-a.json", GOOD)
        until_gone(small / "input-a.json")
    assert archived(small / "done") == {"input-a.json": GOOD}
    names = {path.name for path in small.iterdir()}
    daemon.environment["WASMDROP_KEEP_RESULTS_DAYS"] = SHORT_DAYS
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    with daemon.running():
        daemon.submit("input-b.json", GOOD)
        until_gone(daemon.shared / "result-b.done")
        failed = {line["directory"] for line in daemon.until_logged("slot-removal-failed", 2)}
        assert failed == {str(small), str(small / "done")}
        assert {path.name for path in small.iterdir()} == names
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
        wait_until(lambda: not list(small.glob("result*")), "the results to go")
        wait_until(lambda: not list((small / "done").iterdir()), "the archive to be emptied")


def test_retention_of_a_root_slot_elsewhere_moves_its_input_there(tmp_path: Path) -> None:
    """INPUT_PATH and OUTPUT_PATH are in directories of their own."""
    given, taken = tmp_path / "given", tmp_path / "taken"
    given.mkdir()
    taken.mkdir()
    daemon = with_fib(
        tmp_path,
        INPUT_PATH=str(given / "task.json"),
        OUTPUT_PATH=str(taken / "answer.json"),
        WASMDROP_AFTER="archive",
        WASMDROP_KEEP_RESULTS_DAYS=SHORT_DAYS,
    )
    with daemon.running():
        drop(given / "task.json", GOOD)
        until_gone(given / "task.json")
        (path,) = (given / "done").iterdir()
        assert path.name.endswith("-task.json")
        until_gone(taken / "answer.json")
        until_gone(taken / "answer.done")
    assert list(taken.iterdir()) == []
