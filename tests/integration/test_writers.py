"""Files that a process still has open for writing are not judged before they are complete."""

import ctypes
import hashlib
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB, with_fib
from tests.support.require import require_users
from tests.support.users import DAEMON, as_user, shared_base

MODULE: Final = bytes(wat2wasm(FIB))
INPUT: Final = b'{"entry":"fib","args":[12]}'
HALF: Final = 14

#: Short, so that a daemon that judges too early does so within a :func:`pause`.
SETTLE: Final = "0.05"

#: A producer in another process: writes half, reports it, and waits for a line or its death.
PRODUCER: Final = """
import sys
file = open(sys.argv[1], "ab", buffering=0)
file.write(sys.argv[2].encode())
print("written", flush=True)
sys.stdin.readline()
file.write(sys.argv[3].encode())
"""


@pytest.fixture(params=["events", "poll"])
def any_daemon(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Give a daemon that uses events, and one that polls."""
    daemon = quick_daemon(tmp_path, WASMDROP_WATCH=str(request.param))
    with daemon.running():
        yield daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give a daemon that uses events."""
    it = quick_daemon(tmp_path)
    with it.running():
        yield it


def quick_daemon(base: Path, **variables: str) -> Daemon:
    """Return a daemon, not started, that judges files soon; its default module is ``fib``."""
    return with_fib(base, WASMDROP_SETTLE_SEC=SETTLE, WASMDROP_POLL_SEC="0.1", **variables)


def pause(daemon: Daemon) -> None:
    """Let the daemon judge incomplete inputs that were dropped later; other slots run meanwhile."""
    for _ in range(2):
        assert daemon.submit("input-later.json", f"half {os.urandom(8).hex()}")["code"] != "ok"
    daemon.submit("input-other.json", {"entry": "fib", "args": [3], "id": os.urandom(8).hex()})


def require_one_job(daemon: Daemon, name: str = "input.json") -> dict[str, Any]:
    """Check that there was one job of the slot and that it succeeded; return its marker."""
    marker = wait_until(lambda: daemon.marker(name), f"the marker of {name}")
    last = f"input-{os.urandom(8).hex()}.json"
    daemon.submit(last, {"entry": "fib", "args": [4]})
    # Lines are in the order of the events: that of a job of the slot that ended before is there.
    wait_until(lambda: _codes(daemon, last), "the line of the last job")
    assert _codes(daemon, name) == ["ok"]
    assert daemon.result(name)["results"] == [144]
    return marker


def _codes(daemon: Daemon, name: str) -> list[str]:
    jobs = daemon.events("job-finished")
    return [job["code"] for job in jobs if job["slot"] == name]


@pytest.mark.parametrize("first", [0, HALF, len(INPUT)], ids=["nothing", "half", "all"])
def test_input_written_with_pauses_is_run_once_when_it_is_closed(
    daemon: Daemon, first: int
) -> None:
    """A pause before the first byte, after half of them, and before the close."""
    path = daemon.shared / "input.json"
    with path.open("wb", buffering=0) as file:
        if first:
            file.write(INPUT[:first])
        pause(daemon)
        assert daemon.marker("input.json") is None
        file.write(INPUT[first:])
    assert require_one_job(daemon)["input"]["sha256"] == hashlib.sha256(INPUT).hexdigest()


def test_input_rewritten_in_place_is_not_judged_by_a_scan_in_between(daemon: Daemon) -> None:
    """A scan finds files that no event has announced as complete."""
    path = daemon.shared / "input.json"
    daemon.submit("input.json", b'{"entry":"fib","args":[3]}')
    with path.open("wb", buffering=0) as file:
        file.write(INPUT[:HALF])
        # The daemon scans a directory whose `..data` link is exchanged.
        (daemon.shared / "..data").symlink_to("nowhere")
        pause(daemon)
        marker = daemon.marker("input.json")
        assert marker is not None
        assert marker["code"] == "ok"
        file.write(INPUT[HALF:])
    daemon.wait_for("input.json", INPUT)
    wait_until(lambda: len(_codes(daemon, "input.json")) > 1, "the line of the second job")
    assert set(_codes(daemon, "input.json")) == {"ok"}


def test_input_of_two_writers_is_not_judged_when_one_closes(any_daemon: Daemon) -> None:
    """Both append; the second closes while the first has half of the input to write."""
    path = any_daemon.shared / "input.json"
    with path.open("ab", buffering=0) as first:
        first.write(INPUT[:HALF])
        with path.open("ab", buffering=0) as second:
            second.write(INPUT[HALF : HALF + 2])
        pause(any_daemon)
        assert any_daemon.marker("input.json") is None
        first.write(INPUT[HALF + 2 :])
    require_one_job(any_daemon)


def test_input_of_a_writer_that_dies_is_judged_as_it_is(any_daemon: Daemon) -> None:
    """The kernel closes its file."""
    path = any_daemon.shared / "input.json"
    command = [sys.executable, "-c", PRODUCER, str(path), INPUT[:HALF].decode(), ""]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as producer:
        assert producer.stdout is not None
        producer.stdout.readline()
        pause(any_daemon)
        assert any_daemon.marker("input.json") is None
        producer.send_signal(signal.SIGKILL)
    assert any_daemon.wait_for("input.json", INPUT[:HALF])["code"] == "invalid-input"


def test_input_of_a_writer_that_hangs_is_judged_in_the_end(tmp_path: Path) -> None:
    """It stays open and unchanged for the time between two scans."""
    daemon = quick_daemon(tmp_path, WASMDROP_RESCAN_SEC="1")
    with daemon.running(), (daemon.shared / "input.json").open("wb", buffering=0) as file:
        file.write(INPUT[:HALF])
        assert daemon.wait_for("input.json", INPUT[:HALF])["code"] == "invalid-input"


def test_unnamed_file_that_is_linked_into_place_is_run_at_once(daemon: Daemon) -> None:
    """A file made with O_TMPFILE gets its name when it is complete; its writer may stay."""
    fd = os.open(daemon.shared, os.O_TMPFILE | os.O_WRONLY)
    try:
        os.write(fd, INPUT)
        link_into_place(fd, daemon.shared / "input.json")
        require_one_job(daemon)
    finally:
        os.close(fd)


def test_unnamed_file_that_is_linked_before_it_is_complete_is_awaited(daemon: Daemon) -> None:
    """Its writes and its close raise no event for its new name."""
    fd = os.open(daemon.shared, os.O_TMPFILE | os.O_WRONLY)
    try:
        os.write(fd, INPUT[:HALF])
        link_into_place(fd, daemon.shared / "input.json")
        pause(daemon)
        assert daemon.marker("input.json") is None
        os.write(fd, INPUT[HALF:])
    finally:
        os.close(fd)
    require_one_job(daemon)


def link_into_place(fd: int, path: Path) -> None:
    """Give an unnamed file a name, as open(2) shows."""
    libc = ctypes.CDLL(None, use_errno=True)
    at_fdcwd, at_symlink_follow = -100, 0x400
    source = f"/proc/self/fd/{fd}".encode()
    assert libc.linkat(at_fdcwd, source, at_fdcwd, os.fsencode(path), at_symlink_follow) == 0


def test_input_written_through_a_mapping_is_awaited(any_daemon: Daemon) -> None:
    """The mapping keeps the file open when its descriptor is closed."""
    path = any_daemon.shared / "input.json"
    with path.open("w+b") as file:
        os.ftruncate(file.fileno(), len(INPUT))
        mapping = mmap.mmap(file.fileno(), len(INPUT))
    with mapping:
        mapping[:HALF] = INPUT[:HALF]
        pause(any_daemon)
        assert any_daemon.marker("input.json") is None
        mapping[HALF:] = INPUT[HALF:]
    require_one_job(any_daemon)


def test_input_that_is_open_when_the_daemon_starts_is_awaited(tmp_path: Path) -> None:
    """No event tells of earlier writes."""
    daemon = quick_daemon(tmp_path)
    with (daemon.shared / "input.json").open("wb", buffering=0) as file:
        file.write(INPUT[:HALF])
        daemon.start()
        pause(daemon)
        assert daemon.marker("input.json") is None
        file.write(INPUT[HALF:])
    require_one_job(daemon)
    assert daemon.stop() == 0


# Modules

Writing = Callable[[Daemon, ExitStack], Callable[[], None]]


def _in_place(path: Path, stack: ExitStack) -> Callable[[], None]:
    file = stack.enter_context(path.open("wb", buffering=0))
    file.write(MODULE[: len(MODULE) // 2])

    def finish() -> None:
        file.write(MODULE[len(MODULE) // 2 :])
        file.close()

    return finish


@pytest.mark.parametrize("before", [b"", MODULE[:-1]], ids=["new", "over-another"])
@pytest.mark.parametrize("name", ["late.wasm", "own/module.wasm"])
def test_job_waits_for_a_module_that_is_copied_with_pauses(
    any_daemon: Daemon, name: str, before: bytes
) -> None:
    """No result says that the module is invalid: a consumer would take it as final."""
    is_own = name.startswith("own/")
    path = (any_daemon.shared if is_own else any_daemon.wasm) / name
    path.parent.mkdir(exist_ok=True)
    if before:
        drop(path, before)
        wait_until(lambda: _is_dropped(any_daemon, path), "the drop of the first module")
    with ExitStack() as stack:
        finish = _in_place(path, stack)
        slot = "own/input.json" if is_own else "input.json"
        content = INPUT if is_own else b'{"module":"late","entry":"fib","args":[12]}'
        drop(any_daemon.shared / slot, content)
        pause(any_daemon)
        assert any_daemon.marker(slot) is None
        finish()
    require_one_job(any_daemon, slot)


def _is_dropped(daemon: Daemon, path: Path) -> bool:
    return any(event["path"] == str(path) for event in daemon.events("module-dropped"))


def test_invalid_module_that_is_closed_is_refused_without_a_wait(tmp_path: Path) -> None:
    """The daemon saw its close, so it does not wait for more."""
    daemon = quick_daemon(tmp_path, WASMDROP_MODULE_WAIT_SEC="3600")
    with daemon.running():
        (daemon.wasm / "bad.wasm").write_bytes(MODULE[:-1])
        assert daemon.submit("input.json", b'{"module":"bad"}')["code"] == "invalid-module"


def test_invalid_module_of_a_writer_that_hangs_is_refused_in_the_end(tmp_path: Path) -> None:
    """A job waits for the rest as long as it would wait for the whole module."""
    daemon = quick_daemon(tmp_path, WASMDROP_MODULE_WAIT_SEC="1")
    with daemon.running(), ExitStack() as stack:
        _in_place(daemon.wasm / "bad.wasm", stack)
        assert daemon.submit("input.json", b'{"module":"bad"}')["code"] == "invalid-module"


def test_waiting_job_says_that_its_module_is_incomplete(daemon: Daemon) -> None:
    """An operator sees why nothing happens."""
    with ExitStack() as stack:
        finish = _in_place(daemon.wasm / "late.wasm", stack)
        drop(daemon.shared / "input.json", b'{"module":"late","entry":"fib","args":[12]}')
        jobs = [sys.executable, "-m", "wasmdrop", "jobs", "--state", "open", "--json"]

        def why() -> str:
            out = subprocess.run(jobs, env=daemon.environment, capture_output=True, check=True)
            return out.stdout.decode()

        wait_until(lambda: "its module is not complete yet" in why(), "the reason")
        finish()
    require_one_job(daemon)


# A daemon of another user: the kernel reports no writers to it


def test_daemon_of_another_user_awaits_input_and_module() -> None:
    """Only events tell it that both are open."""
    require_users()
    with shared_base() as base:
        daemon = quick_daemon(base)
        daemon.prefix = as_user(DAEMON)
        daemon.shared.chmod(0o777)
        daemon.state.mkdir()
        os.chown(daemon.state, DAEMON, DAEMON)
        with daemon.running(), ExitStack() as stack:
            finish = _in_place(daemon.wasm / "late.wasm", stack)
            drop(daemon.shared / "input-late.json", b'{"module":"late","entry":"fib","args":[12]}')
            with (daemon.shared / "input.json").open("wb", buffering=0) as file:
                file.write(INPUT[:HALF])
                pause(daemon)
                assert daemon.marker("input.json") is None
                assert daemon.marker("input-late.json") is None
                file.write(INPUT[HALF:])
            finish()
            require_one_job(daemon)
            require_one_job(daemon, "input-late.json")
