"""A daemon and its workers: real processes, and a real server between them."""

import asyncio
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import pytest
from wasmtime import wat2wasm

from tests.support.commands import wait_for_state
from tests.support.components import EVERYTHING
from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB
from tests.support.fleet.ready import connected, ready_server
from tests.support.fleet.server import Server
from tests.support.fleet.worker import Worker
from tests.support.wasi_programs import FILE_PROGRAMS, FILES, STREAM_PROGRAMS, STREAMS
from wasmdrop.fleet.names import (
    ANY_ENGINE,
    daemon_jobs_filter,
    job_stream,
    outcome_stream,
    outcomes_filter,
    started_subject,
)

#: Each test has a daemon and a pool of its own.
NAMES: Final = ("same", "dies", "worker", "poison", "stop")

TRAP: Final = '(module (func (export "run") (unreachable)))'
SPIN: Final = '(module (func (export "run") (loop $on (br $on))))'

MODULES: Final[dict[str, str]] = {
    "fib": FIB,
    "trap": TRAP,
    "spin": SPIN,
    "everything": EVERYTHING,
    **{name: f"(module {STREAMS} {STREAM_PROGRAMS[name]})" for name in ("count", "cat", "trap")},
    **{name: f"(module {FILES} {FILE_PROGRAMS[name]})" for name in ("work", "fails")},
}

#: Jobs of all kinds.
INPUTS: Final[dict[str, dict[str, Any]]] = {
    "function": {"module": "fib", "entry": "fib", "args": [12]},
    "deterministic": {"module": "fib", "entry": "fib", "args": [9], "deterministic": True},
    "trap": {"module": "trap"},
    "exit": {"module": "count", "args": ["a", "b"]},
    "large": {"module": "cat", "stdin": "0123456789abcdef" * 40_000},
    "files": {"module": "work", "files": {"data/in.txt": "héllo"}},
    "failed-files": {"module": "fails"},
    "component": {"module": "everything", "entry": "echo-s64", "args": [[-5, 7]]},
    "bad-args": {"module": "fib", "entry": "fib", "args": ["x"]},
    "timeout": {"module": "spin", "entry": "run", "timeout_sec": 0.2},
}

#: Keys of a marker that differ between two runs of a job.
DIFFERENT: Final = frozenset(
    {"job", "dropped_at", "started_at", "finished_at", "seconds", "input", "module", "worker"}
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with a daemon and a pool for each test."""
    with ready_server(tmp_path_factory.mktemp("server"), NAMES, NAMES) as it:
        yield it


def new_daemon(base: Path, server: Server | None, name: str, **variables: str) -> Daemon:
    """Return a daemon with all modules, not started."""
    if server is not None:
        variables = {
            "WASMDROP_FLEET": server.url,
            "WASMDROP_FLEET_NAME": name,
            "WASMDROP_FLEET_POOL": name,
        } | variables
    daemon = Daemon(base, **variables)
    for module, text in MODULES.items():
        drop(daemon.wasm / f"{module}.wasm", bytes(wat2wasm(text)))
    return daemon


def new_worker(base: Path, server: Server, name: str, worker: str = "w1") -> Worker:
    """Return a worker of the pool of a test, not started."""
    return Worker(base / worker, server, WASMDROP_FLEET_POOL=name)


def subjects(server: Server, stream: str, subjects_filter: str) -> set[str]:
    """Return the subjects of messages in a stream."""

    async def look() -> set[str]:
        async with connected(server) as connection:
            return await connection.subjects(stream, subjects_filter)

    return asyncio.run(look())


def until_published(server: Server, name: str, count: int = 1) -> None:
    """Wait until the stream has so many jobs of a daemon."""
    there = (job_stream(name), daemon_jobs_filter(name, name))
    wait_until(lambda: len(subjects(server, *there)) == count, "the jobs in their stream")


def until_answered(server: Server, name: str, count: int = 1) -> None:
    """Wait until the stream has so many answers to a daemon."""
    there = (outcome_stream(name), outcomes_filter(name))
    wait_until(lambda: len(subjects(server, *there)) == count, "the answers in their stream")


def drop_input(daemon: Daemon, slot: str, content: dict[str, Any]) -> bytes:
    """Drop an input; return its bytes."""
    data = json.dumps(content).encode()
    drop(daemon.shared / f"input-{slot}.json", data)
    return data


def files_of(daemon: Daemon, slot: str) -> dict[str, bytes]:
    """Return the result files of a slot, without the marker."""
    found: dict[str, bytes] = {}
    for path in daemon.shared.glob(f"result-{slot}.*"):
        if path.suffix == ".output":
            inner = [one for one in path.rglob("*") if one.is_file()]
            found |= {str(one.relative_to(daemon.shared)): one.read_bytes() for one in inner}
        elif path.suffix == ".txt":
            found[path.name] = path.read_bytes().partition(b"\n")[2]  # without the time
        elif path.suffix != ".done":
            found[path.name] = path.read_bytes()
    return found


def without_differences(marker: dict[str, Any] | None) -> dict[str, Any]:
    """Return a marker without what differs between two runs."""
    assert marker is not None
    same = {key: value for key, value in marker.items() if key not in DIFFERENT}
    same["files"] = {name: file for name, file in same["files"].items() if ".txt" not in name}
    return same


def test_results_of_a_fleet_are_those_of_one_machine(tmp_path: Path, server: Server) -> None:
    """Byte for byte, of jobs of all kinds; the marker says who ran each."""
    local = new_daemon(tmp_path / "local", None, "same")
    remote = new_daemon(tmp_path / "remote", server, "same")
    with local.running(), new_worker(tmp_path, server, "same").running(), remote.running():
        for daemon in (local, remote):
            data = {slot: drop_input(daemon, slot, one) for slot, one in INPUTS.items()}
            markers = {slot: daemon.wait_for(f"input-{slot}.json", data[slot]) for slot in data}
            for slot, marker in markers.items():
                runs = marker["code"] != "invalid-args"
                assert marker["worker"] == ("w1" if daemon is remote and runs else None), slot
                assert marker["attempt"] == int(runs), slot
                shown = wait_for_state(daemon, f"input-{slot}.json", "delivered")
                assert shown["worker"] == marker["worker"], slot
    for slot in INPUTS:
        assert files_of(remote, slot) == files_of(local, slot), slot
        ours, theirs = (daemon.marker(f"input-{slot}.json") for daemon in (remote, local))
        assert without_differences(ours) == without_differences(theirs), slot
    assert len(files_of(remote, "files")) > 3
    wait_until(lambda: not list((remote.state / "jobs").glob("*/*")), "no directory to be left")
    assert subjects(server, outcome_stream("same"), outcomes_filter("same")) == set()


def test_daemon_killed_in_each_phase_delivers_once_and_counts_one_attempt(
    tmp_path: Path, server: Server
) -> None:
    """Before the answer, before it takes the answer, and before it delivers the results."""
    daemon = new_daemon(tmp_path / "daemon", server, "dies")
    worker = new_worker(tmp_path, server, "dies")
    daemon.start()
    data = drop_input(daemon, "a", {"module": "fib", "entry": "fib", "args": [12]})
    until_published(server, "dies")
    daemon.kill()
    daemon.start()
    until_published(server, "dies")
    daemon.kill()
    with worker.running():
        until_answered(server, "dies")
        daemon.prefix = (sys.executable, "-c", DIES_AT_DELIVERY, "exec")
        daemon.launch()
        assert daemon.process is not None
        assert daemon.process.wait(60) == -9, daemon.log_text()
        assert daemon.marker("input-a.json") is None
        until_answered(server, "dies")
        daemon.prefix = ()
        with daemon.running():
            marker = daemon.wait_for("input-a.json", data)
            assert (marker["code"], marker["attempt"], marker["worker"]) == ("ok", 1, "w1")
    assert len(daemon.lines()) == 1
    assert [event["attempt"] for event in daemon.events("job-finished")] == [1]


#: Runs the daemon, and kills it when it is about to give results to delivery.
DIES_AT_DELIVERY: Final = """
import os, signal, sys
from wasmdrop.delivery.delivery import Delivery
Delivery.stage = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = ["wasmdrop", "serve"]
from wasmdrop.cli.main import main
main()
"""


def shorten_leases(server: Server, pool: str) -> None:
    """Let the leases of a pool end sooner, but after a worker extends them."""

    async def change() -> None:
        name = f"{job_stream(pool)}.{ANY_ENGINE}"
        async with connected(server) as connection:
            found = await connection.api(f"CONSUMER.INFO.{name}")
            config = {**found["config"], "ack_wait": 4_000_000_000}
            request = {"stream_name": job_stream(pool), "config": config}
            await connection.api(f"CONSUMER.CREATE.{name}", request)

    asyncio.run(change())


class Starts:
    """Counts the jobs of a daemon that workers begin, on a thread."""

    def __init__(self, server: Server, daemon: str) -> None:
        self.count = 0
        self._server = server
        self._daemon = daemon
        self._is_listening = threading.Event()
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_listening.wait(60)
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_done.set()
        self._thread.join()

    def until(self, count: int) -> None:
        """Wait until so many were begun."""
        wait_until(lambda: self.count >= count, f"{count} begun jobs")

    async def _listen(self) -> None:
        async with connected(self._server) as connection:
            await connection.subscribe(started_subject(self._daemon), self._note)
            await connection.subjects(
                outcome_stream(self._daemon), outcomes_filter(self._daemon)
            )  # it is subscribed
            self._is_listening.set()
            await asyncio.to_thread(self._is_done.wait)

    def _note(self, _subject: str, _data: bytes) -> None:
        self.count += 1


def test_worker_killed_while_it_runs_a_job_is_replaced(tmp_path: Path, server: Server) -> None:
    """The lease ends, and another worker runs the same attempt."""
    shorten_leases(server, "worker")
    first = new_worker(tmp_path, server, "worker", "w1")
    second = new_worker(tmp_path, server, "worker", "w2")
    daemon = new_daemon(tmp_path / "daemon", server, "worker")
    with daemon.running(), Starts(server, "worker") as starts:
        first.start()
        data = drop_input(daemon, "a", {"module": "spin", "entry": "run", "timeout_sec": 2})
        starts.until(1)
        first.kill()
        with second.running():
            marker = daemon.wait_for("input-a.json", data)
        assert (marker["code"], marker["attempt"], marker["worker"]) == ("timeout", 1, "w2")


def test_job_that_kills_its_workers_ends_as_crashed(tmp_path: Path, server: Server) -> None:
    """After as many attempts as it has; each worker counts as one."""
    shorten_leases(server, "poison")
    daemon = new_daemon(tmp_path / "daemon", server, "poison")
    worker = new_worker(tmp_path, server, "poison")
    with daemon.running(), Starts(server, "poison") as starts:
        data = drop_input(daemon, "a", {"module": "spin", "entry": "run"})
        for number in (1, 2, 3):
            worker.start()
            starts.until(number)
            worker.kill()
        with worker.running():
            marker = daemon.wait_for("input-a.json", data)
        assert (marker["code"], marker["attempt"]) == ("crashed", 3)
        assert "workers of the fleet took the job" in marker["message"]
        # A second job of the slot goes on.
        with worker.running():
            marker = daemon.submit("input-a.json", {"module": "fib", "entry": "fib", "args": [1]})
        assert (marker["code"], marker["attempt"]) == ("ok", 1)


def test_daemon_stops_without_waiting_for_the_fleet(tmp_path: Path, server: Server) -> None:
    """Its job goes on, and the next daemon takes the answer; no attempt is counted twice."""
    daemon = new_daemon(tmp_path / "daemon", server, "stop", WASMDROP_DRAIN_SEC="3600")
    with daemon.running():
        data = drop_input(daemon, "a", {"module": "fib", "entry": "fib", "args": [12]})
        until_published(server, "stop")
    with new_worker(tmp_path, server, "stop").running():
        until_answered(server, "stop")
    with daemon.running():
        marker = daemon.wait_for("input-a.json", data)
    assert (marker["code"], marker["attempt"], marker["worker"]) == ("ok", 1, "w1")


def readiness(daemon: Daemon) -> tuple[int, list[str]]:
    """Return the status and the reasons of ``/readyz``."""
    address = daemon.events("http-listening")[-1]["address"]
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=30) as answer:
            return answer.status, json.load(answer)["reasons"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["reasons"]


def test_fleet_that_is_away_is_replaced_or_awaited(tmp_path: Path) -> None:
    """By setting; then the servers come back, and those that waited go on.

    Takes as long as the servers must be away.
    """
    base = tmp_path / "server"
    with ready_server(base, ("here", "waits")) as server:
        server.kill()
        here, waits = (
            Daemon(tmp_path / name, **fleet_settings(server, name, fallback))
            for name, fallback in (("here", "local"), ("waits", "wait"))
        )
        for daemon in (here, waits):
            drop(daemon.wasm / "module.wasm", bytes(wat2wasm(FIB)))
        with here.running(), waits.running():
            data = [
                drop_input(daemon, "a", {"entry": "fib", "args": [5]}) for daemon in (here, waits)
            ]
            marker = here.wait_for("input-a.json", data[0])
            assert (marker["code"], marker["attempt"], marker["worker"]) == ("ok", 1, None)
            assert readiness(here) == (200, [])
            wait_until(lambda: readiness(waits)[0] == 503, "the daemon that waits not to be ready")
            assert "WASMDROP_FLEET_FALLBACK=wait" in readiness(waits)[1][0]
            wait_until(lambda: "fleet" in note_of(waits), "the reason why the job waits")
            assert waits.marker("input-a.json") is None
            server.start()
            with Worker(tmp_path / "w1", server).running():
                marker = waits.wait_for("input-a.json", data[1])
                assert (marker["code"], marker["attempt"], marker["worker"]) == ("ok", 1, "w1")
                here.until_logged("fleet-back")
                marker = here.submit("input-b.json", {"entry": "fib", "args": [6]})
                assert marker["worker"] == "w1"
            wait_until(lambda: readiness(waits) == (200, []), "the daemon to be ready")


def fleet_settings(server: Server, name: str, fallback: str) -> dict[str, str]:
    """Return the settings of a daemon."""
    return {
        "WASMDROP_FLEET": server.url,
        "WASMDROP_FLEET_NAME": name,
        "WASMDROP_FLEET_FALLBACK": fallback,
        "WASMDROP_HTTP": "127.0.0.1:0",
    }


def note_of(daemon: Daemon) -> str:
    """Return why the first open job waits, as ``wasmdrop jobs`` says it."""
    ended = subprocess.run(
        [sys.executable, "-m", "wasmdrop", "jobs", "--state", "open"],
        env=daemon.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout
