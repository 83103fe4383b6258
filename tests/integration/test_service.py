"""Start, discovery of drops, stop and restart of the daemon."""

import functools
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from tests.support.commands import run
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB, with_fib
from wasmdrop.system.durable_files import TEMPORARY_PREFIX

SLOW = '(module (func (export "run") (loop br 0)))'
ODD = '(module (func (export "run") (result i32) (i32.const 7)))'


def test_daemon_that_stops_lets_a_running_job_finish(tmp_path: Path) -> None:
    """SIGTERM drains: the job's own limit ends it, and its result is delivered."""
    daemon = Daemon(tmp_path)
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(SLOW)))
    with daemon.running():
        drop(daemon.shared / "input.json", '{"timeout_sec": 2}')
        wait_until(lambda: daemon.events("module-compiled"), "the job to begin")
    marker = daemon.marker("input.json")
    assert marker is not None
    assert marker["code"] == "timeout"


def test_job_that_outlives_the_drain_reruns_at_the_next_start(tmp_path: Path) -> None:
    """It stays in the journal, its attempt not counted."""
    daemon = Daemon(tmp_path, WASMDROP_DRAIN_SEC="0.1")
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(SLOW)))
    with daemon.running():
        drop(daemon.shared / "input.json", '{"timeout_sec": 3}')
        wait_until(lambda: daemon.events("module-compiled"), "the job to begin")
    assert daemon.marker("input.json") is None
    with daemon.running():
        marker = wait_until(lambda: daemon.marker("input.json"), "the marker")
    assert (marker["code"], marker["attempt"]) == ("timeout", 1)
    assert len(daemon.lines()) == 1


def test_daemon_that_is_killed_loses_and_repeats_no_job(tmp_path: Path) -> None:
    """SIGKILL in the middle of two hundred jobs; the next daemon finishes them."""
    daemon = with_fib(tmp_path).start()
    names = [f"input-{number}.json" for number in range(200)]
    for name in names:
        drop(daemon.shared / name, {"entry": "fib", "args": [10], "id": name})
    wait_until(lambda: len(daemon.lines()) > 20, "some of the jobs")
    daemon.kill()
    with daemon.running():
        for name in names:
            wait_until(lambda name=name: daemon.marker(name), name)  # type: ignore[misc]
            assert daemon.result(name)["results"] == [55]
        wait_until(lambda: len(daemon.events("job-finished")) > 0, "the log")
    with daemon.running():
        markers = [daemon.marker(name) for name in names]
        daemon.submit("input.json", '{"entry":"fib","args":[1]}')
        assert [daemon.marker(name) for name in names] == markers
    leftovers = [
        one.name for one in daemon.shared.iterdir() if one.name.startswith(TEMPORARY_PREFIX)
    ]
    assert not leftovers


def test_fork_server_that_dies_has_its_jobs_retried(tmp_path: Path) -> None:
    """A failure of the sandbox is not the job's."""
    daemon = with_fib(tmp_path)
    daemon.start()
    daemon.submit("input.json", '{"entry":"fib","args":[5]}')
    os.kill(daemon.fork_server(), signal.SIGKILL)
    daemon.submit("input.json", '{"entry":"fib","args":[6]}')
    assert daemon.result("input.json")["results"] == [8]
    wait_until(lambda: daemon.events("fork-server-died"), "the log")
    assert daemon.stop() == 0


def _has_lines(daemon: Daemon, number: int) -> bool:
    return len(daemon.lines()) == number


def test_delivery_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    """Another one delivers the next results once, and the job's line is printed once."""
    daemon = with_fib(tmp_path)
    daemon.start()
    daemon.submit("input.json", '{"entry":"fib","args":[5]}')
    before = daemon.delivery_workers()
    for number in range(6, 9):
        # The line comes after the marker, and no other process repeats it.
        wait_until(functools.partial(_has_lines, daemon, number - 5), "the last job's line")
        for process in daemon.delivery_workers():
            os.kill(process, signal.SIGKILL)
        daemon.submit("input.json", f'{{"entry":"fib","args":[{number}]}}')
    assert daemon.result("input.json")["results"] == [21]
    wait_until(lambda: len(daemon.events("delivery-worker-died")) == 3, "the log")
    assert set(daemon.delivery_workers()).isdisjoint(before)
    wait_until(lambda: len(daemon.lines()) == 4, "the lines")
    assert daemon.stop() == 0
    assert len(daemon.lines()) == 4


def test_daemon_without_a_standard_output_delivers(tmp_path: Path) -> None:
    """Its lines go nowhere, and not into a file that happens to have that descriptor."""
    daemon = with_fib(tmp_path)
    daemon.prefix = ("sh", "-c", 'exec "$@" >&-', "sh")
    with daemon.running():
        for number in range(5, 8):
            daemon.submit("input.json", f'{{"entry":"fib","args":[{number}]}}')
            assert daemon.result("input.json")["entry"] == "fib"
        for process in daemon.delivery_workers():
            assert Path(f"/proc/{process}/fd/1").readlink() == Path("/dev/null")
    assert not daemon.events("result-lines-stopped")


def test_delivery_worker_ends_when_the_daemon_is_killed(tmp_path: Path) -> None:
    """Even one that hangs; and the next daemon may start at once."""
    daemon = with_fib(tmp_path)
    daemon.start()
    daemon.submit("input.json", '{"entry":"fib","args":[5]}')
    processes = daemon.delivery_workers()
    assert processes
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    daemon.kill()
    daemon.start()
    wait_until(lambda: not any(Path(f"/proc/{one}").exists() for one in processes), "their ends")
    daemon.submit("input.json", '{"entry":"fib","args":[6]}')
    assert daemon.stop() == 0


def test_consumer_that_moves_results_away_delays_nothing(tmp_path: Path) -> None:
    """The observers of watchdog would hold the next event back for half a second each time."""
    with with_fib(tmp_path).running() as daemon:
        away = tmp_path / "away"
        away.mkdir()
        daemon.submit("input.json", '{"entry":"fib","args":[1]}')
        seconds = []
        for number in range(2, 12):
            marker = daemon.submit("input.json", f'{{"entry":"fib","args":[{number}]}}')
            seconds.append(marker["seconds"]["total"])
            for suffix in (".json", ".txt", ".done"):
                daemon.result_path("input.json", suffix).rename(away / f"{number}{suffix}")
        assert daemon.events("events-lost") == []
        # Not a promise of speed: ten drops held back would all be far above this.
        assert min(seconds) < 0.4


def test_polling_finds_drops_without_events(tmp_path: Path) -> None:
    """``WASMDROP_WATCH=poll``, for mounts that deliver none."""
    with with_fib(tmp_path, WASMDROP_WATCH="poll", WASMDROP_POLL_SEC="0.1").running() as daemon:
        daemon.submit("a/b/input.json", '{"entry":"fib","args":[7]}')
        assert daemon.result("a/b/input.json")["results"] == [13]


def test_input_with_a_ready_suffix_runs_once_its_ready_file_exists(tmp_path: Path) -> None:
    """``WASMDROP_READY_SUFFIX``, for producers that can't write atomically."""
    with with_fib(tmp_path, WASMDROP_READY_SUFFIX=".ready").running() as daemon:
        path = daemon.shared / "input.json"
        path.write_text('{"entry":"fib","args":[7]}')
        daemon.shared.joinpath("input-other.json").write_text('{"entry":"fib","args":[3]}')
        daemon.shared.joinpath("input-other.json.ready").touch()
        wait_until(lambda: daemon.marker("input-other.json"), "the ready one")
        assert daemon.marker("input.json") is None
        path.with_name("input.json.ready").touch()
        wait_until(lambda: daemon.marker("input.json"), "the other one")


def test_configmap_swap_drops_only_changed_files(tmp_path: Path) -> None:
    """``..data`` is replaced by rename; a file with the same content is not rerun."""
    with with_fib(tmp_path).running() as daemon:
        volume = daemon.shared / "volume"
        first, second = volume / "..1", volume / "..2"
        for directory, number in ((first, 4), (second, 5)):
            directory.mkdir(parents=True)
            (directory / "input.json").write_text(f'{{"entry":"fib","args":[{number}]}}')
            (directory / "input-same.json").write_text('{"entry":"fib","args":[9]}')
        (volume / "..data").symlink_to("..1")
        for name in ("input.json", "input-same.json"):
            (volume / name).symlink_to(f"..data/{name}")
        before = wait_until(lambda: daemon.marker("volume/input-same.json"), "the first")
        wait_until(lambda: daemon.marker("volume/input.json"), "the other first")
        (volume / "..tmp").symlink_to("..2")
        (volume / "..tmp").rename(volume / "..data")
        daemon.wait_for("volume/input.json", b'{"entry":"fib","args":[5]}')
        assert daemon.result("volume/input.json")["results"] == [5]
        assert daemon.marker("volume/input-same.json") == before


def test_new_module_reruns_the_root_slot(tmp_path: Path) -> None:
    """With its present input."""
    with with_fib(tmp_path).running() as daemon:
        daemon.submit("input.json", "{}")
        marker = daemon.marker("input.json")
        assert marker is not None
        assert marker["code"] == "entry-not-found"
        drop(daemon.wasm / "module.wasm", bytes(wat2wasm(ODD)))
        wait_until(
            lambda: (found := daemon.marker("input.json")) and found["job"] != marker["job"],
            "the second job",
        )
        assert daemon.result("input.json")["results"] == [7]


def test_second_daemon_on_a_state_directory_is_refused(daemon: Daemon) -> None:
    """It names the daemon that holds it and ends with status 2."""
    second = run(daemon, "serve")
    assert daemon.process is not None
    assert second.returncode == 2
    assert f"process {daemon.process.pid}" in second.stderr


@pytest.mark.parametrize("name", ["WASMDROP_WORKRES", "WASMDROP_WORKERS"])
def test_setting_that_is_wrong_stops_the_start_with_one_line(tmp_path: Path, name: str) -> None:
    """An unknown name, or a value that does not parse."""
    daemon = Daemon(tmp_path, **{name: "many"})
    done = run(daemon, "serve")
    assert done.returncode == 2
    assert name in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_job_has_one_line_in_the_log_and_a_failure_its_reason(tmp_path: Path) -> None:
    """At level info if it succeeded, as a warning if it failed; each reason once."""
    daemon = Daemon(tmp_path)
    drop(daemon.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
    trap = '(module (func (export "run") unreachable))'
    drop(daemon.wasm / "trap.wasm", bytes(wat2wasm(trap)))
    given: list[tuple[dict[str, Any], str]] = [
        ({"module": "fib", "entry": "fib", "args": [5]}, "ok"),
        ({"module": "fib", "entry": "fib", "args": ["x"]}, "invalid-args"),
        ({"module": "fib", "entry": "fob"}, "entry-not-found"),
        ({"module": "trap"}, "trap"),
        ({"modul": "fib"}, "invalid-input"),
    ]
    with daemon.running():
        for number in range(20):
            drop(daemon.shared / f"input-{number}.json", given[number % len(given)][0])
        wait_until(lambda: len(daemon.events("job-finished")) == 20 or None, "all lines")
    for number in range(20):
        slot = f"input-{number}.json"
        (line,) = [event for event in daemon.events() if event.get("slot") == slot]
        code = given[number % len(given)][1]
        assert (line["event"], line["code"]) == ("job-finished", code)
        assert line["level"] == ("info" if code == "ok" else "warning")
        marker = daemon.marker(slot)
        assert marker is not None
        assert line.get("reason", "") == marker["message"].partition("\n")[0]
