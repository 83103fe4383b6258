"""Disks that are full at the start, or become full: no restart, and no job is lost."""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.disks import fill, fill_with_files, small_disk
from tests.support.fib import GOOD, with_fib
from tests.support.health import get
from tests.support.wasi_programs import FILE_PROGRAMS, FILES

MANY_FILES = 300
#: As in a container, the state directory is made below the top of its volume.
OWN = "own"


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Give small volumes for the shared and the state directory."""
    with contextlib.ExitStack() as mounted:
        yield {
            name: mounted.enter_context(small_disk(tmp_path / name, 24 * 1024, MANY_FILES))
            for name in ("shared", "state")
        }


def daemon_on(tmp_path: Path) -> Daemon:
    """Return a daemon on these volumes, not started."""
    return with_fib(
        tmp_path,
        WASMDROP_HTTP="127.0.0.1:0",
        WASMDROP_RESERVE_MB="1",
        WASMDROP_WORKERS="1",
        WASMDROP_STATE_DIR=str(tmp_path / "state" / OWN),
    )


def make_full(disk: Path, of: str) -> None:
    """Fill a volume."""
    if of == "bytes":
        fill(disk)
    else:
        fill_with_files(disk)


def make_room(disk: Path) -> None:
    """Remove what filled it."""
    (disk / "filler").unlink(missing_ok=True)
    shutil.rmtree(disk / "files", ignore_errors=True)


def answer_of(daemon: Daemon, path: str) -> tuple[int, str]:
    """Return status and body of a health check; 0 if nothing listens, as between two starts."""
    try:
        return get(daemon, path)
    except (IndexError, OSError):
        return 0, ""


def status_of(daemon: Daemon, path: str) -> int:
    """Return the status of a health check; 0 if nothing listens at this moment."""
    return answer_of(daemon, path)[0]


def waits(daemon: Daemon) -> bool:
    """Whether it is alive, started, and not ready, as its probes see it."""
    assert daemon.process is not None
    assert daemon.process.poll() is None, daemon.log_text()
    paths = {"/healthz": 200, "/startupz": 200, "/readyz": 503, "/metrics": 200}
    return all(status_of(daemon, path) == status for path, status in paths.items())


@pytest.mark.parametrize(
    ("full", "of"),
    [(["shared"], "bytes"), (["shared"], "files"), (["state"], "bytes"), (["state"], "files")],
)
def test_start_on_a_full_disk_waits_for_room(
    tmp_path: Path, disks: dict[str, Path], full: list[str], of: str
) -> None:
    """The first one, which has nothing yet: directories, lock files and journal are to be made."""
    daemon = daemon_on(tmp_path)
    drop(daemon.shared / "input.json", '{"entry":"fib","args":[12]}')
    for name in full:
        make_full(disks[name], of)
    daemon.launch()
    wait_until(lambda: daemon.events("start-postponed"), "the start to wait")
    wait_until(lambda: waits(daemon), "the probes")
    wait_until(lambda: "No space left" in answer_of(daemon, "/readyz")[1], "the reason")
    for name in full:
        make_room(disks[name])
    daemon.wait_for("input.json", b'{"entry":"fib","args":[12]}')
    wait_until(lambda: status_of(daemon, "/readyz") == 200, "the daemon to be ready")
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("full", "of"),
    [(["state"], "bytes"), (["state"], "files"), (["shared", "state"], "bytes")],
)
def test_restart_on_a_full_disk_loses_no_job(
    tmp_path: Path, disks: dict[str, Path], full: list[str], of: str
) -> None:
    """The journal has open jobs of a daemon that was killed; each runs when there is room."""
    daemon = daemon_on(tmp_path)
    inputs = {f"input-{number}.json": {"entry": "fib", "args": [number]} for number in range(9)}
    daemon.start()
    daemon.submit("input.json", '{"entry":"fib","args":[12]}')
    for name, content in inputs.items():
        drop(daemon.shared / name, content)
    wait_until(lambda: daemon.marker("input-0.json"), "the first of the jobs")
    daemon.kill()
    for name in full:
        make_full(disks[name], of)
    daemon.launch()
    wait_until(lambda: status_of(daemon, "/readyz") == 503, "the daemon not to be ready")
    wait_until(lambda: waits(daemon), "the probes")
    for name in full:
        make_room(disks[name])
    for name, content in inputs.items():
        daemon.wait_for(name, json.dumps(content).encode())
        assert daemon.marker(name)["status"] == "succeeded"  # type: ignore[index]
    wait_until(lambda: status_of(daemon, "/readyz") == 200, "the daemon to be ready")
    assert daemon.stop() == 0


def test_start_that_waits_for_room_ends_at_a_signal_and_prolongs_systemds_timeout(
    tmp_path: Path, disks: dict[str, Path]
) -> None:
    """With status 0, and without a word that it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        daemon = daemon_on(tmp_path)
        daemon.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        fill(disks["state"])
        daemon.launch()
        heard = [manager.recv(1000) for _ in range(2)]
        assert daemon.stop() == 0
    assert heard[0].startswith(b"EXTEND_TIMEOUT_USEC=")
    assert heard[1].startswith(b"STATUS=waiting for disk space: ")
    assert daemon.events("stopped")
    assert not daemon.events("ready")


def test_disk_that_becomes_full_makes_the_daemon_not_ready_and_nothing_else(
    tmp_path: Path, disks: dict[str, Path]
) -> None:
    """Liveness and startup probes go on to succeed, so that no kubelet restarts it."""
    daemon = daemon_on(tmp_path).start()
    wait_until(lambda: status_of(daemon, "/readyz") == 200, "the daemon to be ready")
    for disk in disks.values():
        fill(disk)
    wait_until(lambda: waits(daemon), "the probes")
    for disk in disks.values():
        make_room(disk)
    daemon.submit("input.json", '{"entry":"fib","args":[12]}')
    assert daemon.stop() == 0


def test_job_that_finds_no_room_for_its_directory_waits(
    tmp_path: Path, disks: dict[str, Path]
) -> None:
    """It does not fail, and the wait is no attempt."""
    daemon = daemon_on(tmp_path)
    source = f"(module {FILES} {FILE_PROGRAMS['idle']})"
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(source)))
    daemon.start()
    assert daemon.submit("input.json", "{}")["status"] == "succeeded"
    fill_with_files(disks["state"])
    drop(daemon.shared / "input.json", '{"id": "waits"}')
    wait_until(lambda: daemon.events("job-waits-for-space"), "the job to wait")
    make_room(disks["state"])
    marker = daemon.wait_for("input.json", b'{"id": "waits"}')
    assert (marker["status"], marker["attempt"]) == ("succeeded", 1)
    assert daemon.stop() == 0


def test_job_whose_module_finds_no_room_for_its_machine_code_waits(
    tmp_path: Path, disks: dict[str, Path]
) -> None:
    """The compiler's child process is the one that finds none; nor does that fail the job."""
    daemon = daemon_on(tmp_path)
    daemon.environment |= {"WASMDROP_ATTEMPTS": "1", "WASMDROP_RESERVE_MB": "0"}
    daemon.start()
    daemon.submit("input.json", GOOD)
    stores = "".join(f"(i64.store (i32.const {8 * n}) (local.get 0))" for n in range(100))
    functions = f"(func (param i64) {stores})" * 500
    module = bytes(wat2wasm(f'(module (memory 1) {functions} (func (export "run")))'))
    drop(daemon.wasm / "large.wasm", module)
    fill(disks["state"])
    filler = disks["state"] / "filler"
    # The machine code is larger than the module.
    os.truncate(filler, filler.stat().st_size - len(module))
    text = '{"module":"large","entry":"run"}'
    drop(daemon.shared / "input.json", text)
    wait_until(lambda: daemon.events("job-waits-for-space"), "the job to wait")
    make_room(disks["state"])
    marker = daemon.wait_for("input.json", text.encode())
    assert (marker["status"], marker["attempt"]) == ("succeeded", 1)
    assert not daemon.events("attempt-failed")
    assert daemon.stop() == 0
