"""Workers that die, stop answering, or lose their fleet."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.fleet.ready import SIZES, connected, ready_server, set_up
from tests.support.fleet.server import Server
from tests.support.fleet.worker import ADD, DAEMON, POOL, HandmadeDaemon, Worker, add_call, until
from tests.support.wasi_programs import FILE_PROGRAMS, FILES
from wasmdrop.fleet.admin.setup import Plan
from wasmdrop.fleet.messages import GivenUp, JobMessage
from wasmdrop.fleet.names import outcome_consumer, outcome_stream, outcome_subject
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.sandbox.host.call import Call


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Give a server with everything that a pool needs."""
    with ready_server(tmp_path / "nats") as it:
        yield it


@contextlib.contextmanager
def _killed_at_the_end(*workers: Worker) -> Iterator[None]:
    """End workers that a test does not stop."""
    try:
        yield
    finally:
        for worker in workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.kill()


def test_jobs_of_dead_and_stopped_workers_are_run_by_another(
    server: Server, tmp_path: Path
) -> None:
    """One worker is killed, another one stopped for longer than its leases.

    A job that may kill no other worker is given up. What the stopped worker says when it goes on
    harms nothing. The test waits for one lease, of ten seconds.
    """
    killed, stopped, heir = (Worker(tmp_path / name, server) for name in ("a", "b", "c"))

    async def play() -> None:
        async with connected(server) as connection:
            daemon = HandmadeDaemon(connection)
            await daemon.listen()
            module = await daemon.upload(ADD)

            async def begin_on(worker: Worker, attempts: int) -> JobMessage:
                worker.start()
                await daemon.ran(await daemon.publish(module, add_call(0, 0)))  # it is compiled
                frozen.enter_context(worker.frozen_jobs())
                job = await daemon.publish(module, add_call(1, 2), attempts=attempts)
                await daemon.until_started(job)
                return job

            poison = await begin_on(killed, 1)
            innocent = await daemon.publish(module, add_call(1, 2))
            await daemon.until_started(innocent)
            killed.kill()
            slow = await begin_on(stopped, 3)
            assert stopped.process is not None
            stopped.process.send_signal(signal.SIGSTOP)
            heir.start()

            assert (await daemon.answer(poison)).content == GivenUp(2)
            for job in (innocent, slow):
                await daemon.ran(job)
                assert (await daemon.answer(job)).worker == "c"
            await daemon.until_done(poison, innocent, slow)

            # The daemon takes the answer; then the late one comes.
            lease = await connection.fetch(outcome_stream(DAEMON), outcome_consumer(DAEMON), 5)
            while lease is not None and lease.subject != outcome_subject(DAEMON, slow.ticket):
                lease = await connection.fetch(outcome_stream(DAEMON), outcome_consumer(DAEMON), 5)
            assert lease is not None
            await lease.ack()
            answer_subject = outcome_subject(DAEMON, slow.ticket)

            async def is_taken() -> bool:
                return await connection.get(outcome_stream(DAEMON), answer_subject) is None

            await until(is_taken, "the answer to be taken")
            stopped.process.send_signal(signal.SIGCONT)
            frozen.close()
            assert (await daemon.answer(slow)).worker == "b"
            heir.kill()
            last = await daemon.publish(module, add_call(3, 4))
            assert (await daemon.answer(last)).worker == "b"
            await daemon.until_done(last)

    with contextlib.ExitStack() as frozen, _killed_at_the_end(killed, stopped, heir):
        asyncio.run(play())
    sweeper = Worker(tmp_path / "a", server).start()
    assert sweeper.stop() == 0
    assert [*killed.state.glob("jobs/*/*")] == []


def test_worker_serves_again_after_its_server_was_killed_and_wiped(
    server: Server, tmp_path: Path
) -> None:
    """It waits for the server and for the streams, however long they are away."""
    plan = Plan((DAEMON,), (POOL,), (), sizes=SIZES)

    async def run_one(worker: Worker) -> None:
        async with connected(server) as connection:
            daemon = HandmadeDaemon(connection)
            job = await daemon.publish(await daemon.upload(ADD), add_call(5, 7))
            await daemon.ran(job)
            await daemon.until_done(job)
        assert worker.process is not None

    with Worker(tmp_path / "w", server).running() as worker:
        asyncio.run(run_one(worker))
        server.kill()
        worker.until_logged("fleet-lost")
        server.start()
        asyncio.run(run_one(worker))
        server.kill()
        server.wipe()
        worker.until_logged("fleet-lost", 2)
        server.start()
        worker.until_logged("pull-failed")
        asyncio.run(set_up(server, plan))
        asyncio.run(run_one(worker))


def test_worker_answer_waits_for_a_server_that_is_away(server: Server, tmp_path: Path) -> None:
    """The job ran before the server came back, and runs once."""

    async def begin() -> JobMessage:
        async with connected(server) as connection:
            daemon = HandmadeDaemon(connection)
            await daemon.listen()
            module = await daemon.upload(ADD)
            await daemon.ran(await daemon.publish(module, add_call(0, 0)))
            frozen.enter_context(worker.frozen_jobs())
            job = await daemon.publish(module, add_call(1, 2))
            await daemon.until_started(job)
            return job

    async def end(job: JobMessage) -> None:
        async with connected(server) as connection:
            await HandmadeDaemon(connection).ran(job)

    with Worker(tmp_path / "w", server).running() as worker:
        with contextlib.ExitStack() as frozen:
            job = asyncio.run(begin())
            server.kill()
            worker.until_logged("fleet-lost")
        worker.until_logged("answer-delayed")
        server.start()
        asyncio.run(end(job))


def test_worker_started_before_its_server_waits_for_it(server: Server, tmp_path: Path) -> None:
    """Hosts start in any order."""
    server.kill()
    with Worker(tmp_path / "w", server).launched() as worker:
        worker.until_logged("fleet-lost")
        server.start()
        worker.until_logged("ready")


def test_worker_stopped_before_its_server_came_ends(server: Server, tmp_path: Path) -> None:
    """It has no job to wait for."""
    server.kill()
    with Worker(tmp_path / "w", server).launched() as worker:
        worker.until_logged("fleet-lost")


def test_worker_with_a_broken_sandbox_takes_no_jobs_until_it_recovers(
    server: Server, tmp_path: Path
) -> None:
    """A job that fails in it is returned, and later ones stay in the queue."""
    command = Call("_start", FunctionType(), argv=("module.wasm",), is_command=True)
    text = f"(module {FILES} {FILE_PROGRAMS['idle']})"

    async def play() -> None:
        async with connected(server) as connection:
            daemon = HandmadeDaemon(connection)
            module = await daemon.upload(bytes(wat2wasm(text)))
            await daemon.ran(await daemon.publish(module, command))
            directories = worker.state / "jobs"
            directories.rename(worker.state / "away")
            # Without it no job can have a directory, as on a disk that fails.
            answer = await daemon.returned(await daemon.publish(module, command))
            assert "sandbox does not work" in answer.reason
            worker.until_logged("sandbox-failed")
            (worker.state / "away").rename(directories)
            await daemon.ran(await daemon.publish(module, command))
            worker.until_logged("sandbox-recovered")

    with Worker(tmp_path / "w", server, WASMDROP_WORKERS="1").launched() as worker:
        asyncio.run(play())
