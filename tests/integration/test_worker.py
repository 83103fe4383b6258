"""Workers of a fleet, with a real server and real processes."""

import asyncio
import contextlib
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from wasmtime import wat2wasm

from tests.support.daemon import wait_until
from tests.support.fleet.ready import SIZES, connected, ready_server, set_up
from tests.support.fleet.secure import secure_fleet
from tests.support.fleet.server import Server, running_server
from tests.support.fleet.worker import (
    ADD,
    DAEMON,
    POOL,
    SPIN,
    SPIN_CALL,
    HandmadeDaemon,
    Worker,
    add_call,
    subject_of,
    until,
)
from tests.support.wasi_programs import FILES, STREAM_PROGRAMS, STREAMS
from wasmdrop.fleet.admin.setup import Plan
from wasmdrop.fleet.messages import Blob, JobMessage, WorkerHeartbeat, decode, encode
from wasmdrop.fleet.names import engine_class, heartbeat_subject
from wasmdrop.fleet.transport.connection import FleetConnection
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.runtime_versions import own_versions
from wasmdrop.sandbox.host.call import Call

COMMAND = Call("_start", FunctionType(), argv=("module.wasm",), is_command=True)

#: Writes a file of twenty times 64 KiB.
LARGE_FILE = f"""(module {FILES} (data (i32.const 64) "f")
  (func (export "_start") (local $fd i32) (local $n i32)
    (memory.fill (i32.const 1024) (i32.const 120) (i32.const 65536))
    (local.set $fd (call $create (i32.const 64) (i32.const 1)))
    (loop $more (call $write (local.get $fd) (i32.const 1024) (i32.const 65536))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 20))))))"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with everything that a pool needs."""
    with ready_server(tmp_path_factory.mktemp("server")) as it:
        yield it


@pytest.fixture(scope="module")
def worker(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Give a worker that runs; it must log no fault and stop cleanly."""
    with Worker(tmp_path_factory.mktemp("worker"), server).running() as it:
        yield it


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Server]:
    """Give a server for a worker of the test's own."""
    with ready_server(tmp_path / "nats") as it:
        yield it


@contextlib.asynccontextmanager
async def playing(server: Server) -> AsyncIterator[tuple[HandmadeDaemon, FleetConnection]]:
    """Give a daemon that hears of its jobs."""
    async with connected(server) as connection:
        daemon = HandmadeDaemon(connection)
        await daemon.listen()
        yield daemon, connection


def outcome_of(data: bytes) -> dict[str, Any]:
    """Return the fields of an encoded outcome."""
    found = msgspec.msgpack.decode(data)
    assert isinstance(found, dict)
    return found


def test_worker_job_is_announced_run_answered_and_acknowledged(
    server: Server, worker: Worker
) -> None:
    """The answer has the outcome, the worker's name and its versions."""

    async def play() -> None:
        async with playing(server) as (daemon, _connection):
            job = await daemon.publish(await daemon.upload(ADD), add_call(5, 7))
            answer = await daemon.answer(job)
            assert answer.worker == worker.environment["WASMDROP_FLEET_NAME"]
            ran = await daemon.ran(job)
            assert ran.runtime == own_versions()
            outcome = outcome_of(await daemon.body(job, ran.outcome))
            assert (outcome["code"], outcome["results"]) == (Code.OK, [12])
            await daemon.until_done(job)
            assert daemon.started == [job.ticket]

    asyncio.run(play())


def test_worker_deterministic_job_of_its_own_class_is_run(server: Server, worker: Worker) -> None:
    """Jobs of other versions of wasmtime have other consumers."""
    assert worker.process is not None

    async def play() -> None:
        async with playing(server) as (daemon, _connection):
            module = await daemon.upload(ADD)
            engine = engine_class(own_versions())
            job = await daemon.publish(module, add_call(1, 2), engine=engine)
            await daemon.ran(job)
            await daemon.until_done(job, engine=engine)
            # In the class of any engine its result would depend on the worker.
            strayed = await daemon.prepare(module, add_call(1, 2), engine=engine)
            await daemon.send(strayed)
            assert "without the class" in (await daemon.returned(strayed)).reason

    asyncio.run(play())


def test_worker_heartbeats_tell_its_slots(server: Server, worker: Worker) -> None:
    """Daemons and `wasmdrop fleet status` count workers by them."""
    name = worker.environment["WASMDROP_FLEET_NAME"]
    heard: list[WorkerHeartbeat] = []

    async def play() -> None:
        async with connected(server) as connection:
            await connection.subscribe(
                heartbeat_subject(POOL, name),
                lambda _subject, data: heard.append(decode(data, WorkerHeartbeat)),
            )

            async def has_heard() -> bool:
                return bool(heard)

            await until(has_heard, "a heartbeat")

    asyncio.run(play())
    assert (heard[0].worker, heard[0].slots) == (name, 2)


def test_worker_large_bodies_travel_in_chunks(server: Server, worker: Worker) -> None:
    """A large call with its output, and large output files, which leave nothing behind."""

    async def play() -> None:
        async with playing(server) as (daemon, _connection):
            text = os.urandom(1_000_000)
            cat = bytes(wat2wasm(f"(module {STREAMS} {STREAM_PROGRAMS['cat']})"))
            call = msgspec.structs.replace(COMMAND, stdin=text)
            job = await daemon.publish(await daemon.upload(cat), call)
            assert isinstance(job.call, Blob)
            ran = await daemon.ran(job)
            assert isinstance(ran.outcome, Blob)
            assert outcome_of(await daemon.body(job, ran.outcome))["stdout"] == text

            module = await daemon.upload(bytes(wat2wasm(LARGE_FILE)))
            job = await daemon.publish(module, COMMAND)
            ran = await daemon.ran(job)
            assert ran.output is not None
            assert isinstance(ran.output.body, Blob)
            body = await daemon.body(job, ran.output.body)
            assert body[ran.output.listing_bytes :] == b"x" * (20 * 65536)

    asyncio.run(play())
    wait_until(lambda: not [*worker.state.glob("jobs/*/*")], "the output files to be removed")


def test_worker_large_module_is_downloaded_once_for_many_jobs(
    server: Server, worker: Worker
) -> None:
    """It is kept in the worker's own module cache, and compiled once."""
    data = "".join(f"\\{byte:02x}" for byte in os.urandom(1_000_000))
    text = f"""(module (memory (export "memory") 16) (data (i32.const 0) "{data}")
      (func (export "run") (result i32) (i32.load8_u (i32.const 0))))"""
    call = Call("run", FunctionType((), ("i32",)))

    async def play() -> Blob:
        async with playing(server) as (daemon, _connection):
            module = await daemon.upload(bytes(wat2wasm(text)))
            for job in [await daemon.publish(module, call) for _ in range(6)]:
                outcome = outcome_of(await daemon.body(job, (await daemon.ran(job)).outcome))
                assert outcome["results"] == [int(data[1:3], 16)]
            return module

    module = asyncio.run(play())
    compiled = [one["module"] for one in worker.until_logged("module-compiled")]
    assert compiled.count(module.sha256) == 1


def test_worker_job_that_it_can_not_run_is_returned(server: Server, worker: Worker) -> None:
    """With the reason; the daemon has it run elsewhere, or sends the module again."""
    assert worker.process is not None

    async def play() -> None:
        async with playing(server) as (daemon, _connection):
            module = await daemon.upload(ADD)
            gone = Blob("ab" * 32, 1000)
            answer = await daemon.returned(await daemon.publish(gone, add_call(1, 2)))
            assert answer.needs_module
            bad = await daemon.upload(b"\0asm\1\0\0\0 not a module")
            answer = await daemon.returned(await daemon.publish(bad, add_call(1, 2)))
            assert "can't be compiled" in answer.reason
            huge = msgspec.structs.replace(module, size_bytes=1 << 40)
            answer = await daemon.returned(await daemon.publish(huge, add_call(1, 2)))
            assert "WASMDROP_MAX_MODULE_MB" in answer.reason
            endless = Limits(timeout_sec=float("inf"))
            answer = await daemon.returned(await daemon.publish(module, add_call(1, 2), endless))
            assert "timeout_sec" in answer.reason
            job = await daemon.prepare(module, add_call(1, 2))
            job = msgspec.structs.replace(job, call=b"?")
            await daemon.send(job)
            assert "call" in (await daemon.returned(job)).reason

    asyncio.run(play())


def test_worker_unreadable_message_is_removed_and_logged(server: Server, worker: Worker) -> None:
    """It can't be answered, and would be delivered for ever."""

    async def play() -> None:
        async with playing(server) as (daemon, connection):
            module = await daemon.upload(ADD)
            garbage = await daemon.prepare(module, add_call(1, 2))
            await connection.store(subject_of(garbage), b"\xc1")
            # A daemon must not have jobs answered to another one.
            other = msgspec.structs.replace(garbage, daemon="other", generation=1)
            strayed = msgspec.structs.replace(other, daemon=DAEMON)
            await connection.store(subject_of(strayed), encode(other))
            await daemon.until_done(garbage, strayed)

    asyncio.run(play())
    worker.until_logged("job-unreadable", 2)


def test_worker_hostile_call_does_not_stop_it(server: Server, worker: Worker) -> None:
    """A daemon that was taken over can send types that do not exist."""
    assert worker.process is not None

    async def play() -> None:
        async with playing(server) as (daemon, _connection):
            module = await daemon.upload(ADD)
            odd = Call("add", FunctionType(("i64", "i64"), ("nothing",)), (1, 2))
            await daemon.answer(await daemon.publish(module, odd))
            few = Call("add", FunctionType(("i64", "i64"), ("i64",)), (1,))
            await daemon.answer(await daemon.publish(module, few))
            await daemon.ran(await daemon.publish(module, add_call(1, 2)))

    asyncio.run(play())


# Stop


def _status_of(worker: Worker) -> int:
    assert worker.process is not None
    return worker.process.wait(60)


async def _begin_spinning(daemon: HandmadeDaemon, seconds: float) -> JobMessage:
    """Publish a job that runs until its timeout, and wait until a worker began it."""
    module = await daemon.upload(SPIN)
    job = await daemon.publish(module, SPIN_CALL, Limits(timeout_sec=seconds))
    await daemon.until_started(job)
    return job


def test_worker_signal_lets_running_jobs_end(pool: Server, tmp_path: Path) -> None:
    """Within the grace period; the worker takes no other job meanwhile."""
    worker = Worker(tmp_path / "w", pool, WASMDROP_DRAIN_SEC="60").start()

    async def play() -> None:
        async with playing(pool) as (daemon, _connection):
            job = await _begin_spinning(daemon, 3)
            assert worker.process is not None
            worker.process.send_signal(signal.SIGTERM)
            worker.until_logged("stopping")
            late = await daemon.publish(job.module, SPIN_CALL)
            outcome = outcome_of(await daemon.body(job, (await daemon.ran(job)).outcome))
            assert outcome["code"] == Code.TIMEOUT
            await daemon.until_done(job)
            assert await asyncio.to_thread(_status_of, worker) == 0
            assert daemon.started == [job.ticket]
            await daemon.withdraw(late)

    asyncio.run(play())


@pytest.mark.parametrize("is_hurried", [False, True], ids=["drained", "second-signal"])
def test_worker_that_must_stop_returns_its_jobs(
    pool: Server, tmp_path: Path, *, is_hurried: bool
) -> None:
    """Another worker runs them without a wait for the lease, and the attempt does not count."""
    worker = Worker(tmp_path / "w", pool, WASMDROP_DRAIN_SEC="600" if is_hurried else "0").start()

    async def play() -> None:
        async with playing(pool) as (daemon, _connection):
            job = await _begin_spinning(daemon, 600)
            assert worker.process is not None
            worker.process.send_signal(signal.SIGTERM)
            if is_hurried:
                worker.until_logged("stopping")
                worker.process.send_signal(signal.SIGQUIT)
            assert "stops" in (await daemon.returned(job)).reason
            await daemon.until_done(job)

    asyncio.run(play())
    assert _status_of(worker) == 0
    assert [*worker.state.glob("jobs/*/*")] == []


# Settings and rights


def _failed(worker: Worker) -> str:
    """Start a worker that can't; return its last words."""
    done = subprocess.run(
        worker.command,
        env=worker.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2, done
    return done.stderr.splitlines()[-1]


def test_worker_without_a_fleet_says_what_is_missing(server: Server, tmp_path: Path) -> None:
    """One line that names the setting."""
    worker = Worker(tmp_path / "w", server, WASMDROP_FLEET="off")
    assert "WASMDROP_FLEET: expected the servers" in _failed(worker)


def test_worker_whose_pool_is_missing_says_so_and_waits(tmp_path: Path) -> None:
    """The fleet exists, but was set up without it."""
    with (
        running_server(tmp_path / "nats") as server,
        Worker(tmp_path / "w", server).launched() as worker,
    ):
        (event,) = worker.until_logged("pool-missing")
        assert f"wasmdrop fleet init --pool {POOL}" in event["reason"]
        asyncio.run(set_up(server, Plan((DAEMON,), (POOL,), (), sizes=SIZES)))
        worker.until_logged("ready")


def test_worker_with_the_key_of_another_pool_is_refused(tmp_path: Path) -> None:
    """The message says what it may not do."""
    with secure_fleet(tmp_path / "fleet", [DAEMON], [POOL, "other"]) as fleet:
        worker = Worker(tmp_path / "w", fleet.server, **fleet.environment("pool-other"))
        assert f"consumer.msg.next.wd1_jobs_{POOL}" in _failed(worker).lower()


def test_worker_with_its_own_key_runs_jobs(tmp_path: Path) -> None:
    """All that it does is within the rights of its pool: modules, calls, outputs, heartbeats."""

    async def play() -> None:
        async with fleet.connected(f"daemon-{DAEMON}") as connection:
            daemon = HandmadeDaemon(connection)
            await daemon.listen()
            cat = bytes(wat2wasm(f"(module {STREAMS} {STREAM_PROGRAMS['cat']})"))
            text = os.urandom(1_000_000)
            call = msgspec.structs.replace(COMMAND, stdin=text)
            job = await daemon.publish(await daemon.upload(cat), call)
            outcome = outcome_of(await daemon.body(job, (await daemon.ran(job)).outcome))
            assert outcome["stdout"] == text
            await daemon.until_started(job)
            await daemon.until_done(job)

    with secure_fleet(tmp_path / "fleet", [DAEMON], [POOL]) as fleet:
        worker = Worker(tmp_path / "w", fleet.server, **fleet.environment(f"pool-{POOL}"))
        with worker.running():
            asyncio.run(play())


def test_worker_keeps_away_from_the_state_of_a_daemon(server: Server, tmp_path: Path) -> None:
    """Its sweep would remove results that the daemon has yet to deliver."""
    worker = Worker(tmp_path / "w", server)
    worker.state.mkdir(mode=0o700)
    (worker.state / "journal.sqlite").touch()
    assert "is that of a daemon" in _failed(worker)


def test_worker_health_and_metrics_are_served(pool: Server, tmp_path: Path) -> None:
    """Ready while it is connected; jobs are counted by code, stage and verdict."""

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    async def play() -> None:
        async with playing(pool) as (daemon, _connection):
            job = await daemon.publish(await daemon.upload(ADD), add_call(1, 2))
            await daemon.ran(job)
            await daemon.until_done(job)

    with Worker(tmp_path / "w", pool, WASMDROP_HTTP="127.0.0.1:0").running() as worker:
        address = worker.until_logged("http-listening")[0]["address"]
        asyncio.run(play())
        assert get("/readyz")[0] == get("/healthz")[0] == 200
        lines = get("/metrics")[1].splitlines()
        for line in (
            'wasmdrop_jobs_total{code="ok"} 1.0',
            'wasmdrop_worker_jobs_total{verdict="ran"} 1.0',
            'wasmdrop_job_duration_seconds_count{stage="run"} 1.0',
            'wasmdrop_job_duration_seconds_count{stage="compile"} 1.0',
            "wasmdrop_worker_module_downloads_total 1.0",
            "wasmdrop_worker_connected 1.0",
            "wasmdrop_ready 1.0",
        ):
            assert line in lines
