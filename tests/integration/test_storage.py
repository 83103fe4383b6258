"""Storage that fails for a while: results wait, others go on, nothing is lost."""

import shutil
from pathlib import Path

from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.disks import fill
from tests.support.fib import with_fib
from tests.support.wasi_programs import FILE_PROGRAMS, FILES


def test_disk_that_is_full_delays_its_own_results_only(tmp_path: Path, small: Path) -> None:
    """The slot on the full file system is served when there is room again."""
    daemon = with_fib(tmp_path)
    with daemon.running():
        drop(small / "input.json", '{"entry":"fib","args":[11]}')
        wait_until(lambda: daemon.marker("small/input.json"), "the first result")
        fill(small)
        # The input is rewritten in place: there is no room for another file.
        (small / "input.json").write_text('{"entry":"fib","args":[12]}')
        wait_until(lambda: daemon.events("delivery-failed"), "the failure")
        daemon.submit("input.json", '{"entry":"fib","args":[5]}')
        assert daemon.result("input.json")["results"] == [5]
        marker = daemon.marker("small/input.json")
        assert marker is None or marker["status"] == "succeeded"
        (small / "filler").unlink()
        daemon.wait_for("small/input.json", b'{"entry":"fib","args":[12]}')
        assert daemon.result("small/input.json")["results"] == [144]
        # A stop waits neither for a job that waited for storage nor for its line.
        wait_until(lambda: len(daemon.events("job-finished")) >= 3, "the lines of all three")
    assert len(daemon.events("job-finished")) == 3


def test_result_that_waited_is_delivered_by_the_next_daemon(tmp_path: Path, small: Path) -> None:
    """The journal keeps it; the job is not rerun."""
    daemon = with_fib(tmp_path, WASMDROP_DRAIN_SEC="0.1")
    with daemon.running():
        drop(small / "input.json", '{"entry":"fib","args":[12]}')
        wait_until(lambda: daemon.marker("small/input.json"), "the first result")
        fill(small)
        (small / "input.json").write_text('{"entry":"fib","args":[13]}')
        wait_until(lambda: daemon.events("delivery-failed"), "the failure")
    (small / "filler").unlink()
    with daemon.running():
        marker = daemon.wait_for("small/input.json", b'{"entry":"fib","args":[13]}')
    assert marker["attempt"] == 1
    assert daemon.result("small/input.json")["results"] == [233]


def an_output_that_waits(daemon: Daemon) -> Path:
    """Run a job whose slot is removed; return the job directory that waits."""
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(f"(module {FILES} {FILE_PROGRAMS['hangs']})")))
    with daemon.running():
        drop(daemon.shared / "gone" / "input.json", {"timeout_sec": 1})
        jobs = daemon.state / "jobs"
        (left,) = wait_until(lambda: list(jobs.glob("*/*/left")), "the job to write")
        shutil.rmtree(daemon.shared / "gone")
        wait_until(lambda: daemon.events("delivery-postponed"), "the failure")
    assert left.exists()
    (daemon.shared / "gone").mkdir()
    return left.parent


def test_output_that_waited_is_delivered_by_the_next_daemon(tmp_path: Path) -> None:
    """The output files stay until then; the job is not rerun: it had its one attempt."""
    daemon = Daemon(tmp_path, WASMDROP_DRAIN_SEC="0.1", WASMDROP_ATTEMPTS="1")
    directory = an_output_that_waits(daemon)
    with daemon.running():
        marker = wait_until(lambda: daemon.marker("gone/input.json"), "the marker")
        assert (marker["code"], marker["attempt"]) == ("timeout", 1)
        daemon.result("gone/input.json")
        published = daemon.shared / "gone" / "result.output"
        assert (published / "left").read_bytes() == b"left"
        wait_until(lambda: not directory.exists(), "the job's directory to be removed")


def test_output_that_was_damaged_while_it_waited_is_made_again(tmp_path: Path) -> None:
    """A power cut may destroy some output files: the job reruns, and its marker is true."""
    daemon = Daemon(tmp_path, WASMDROP_DRAIN_SEC="0.1")
    directory = an_output_that_waits(daemon)
    (directory / "left").write_bytes(b"lost")
    with daemon.running():
        marker = wait_until(lambda: daemon.marker("gone/input.json"), "the marker")
        assert (marker["code"], marker["attempt"]) == ("timeout", 2)
        daemon.result("gone/input.json")
        assert (daemon.shared / "gone" / "result.output" / "left").read_bytes() == b"left"
        assert not directory.exists()
