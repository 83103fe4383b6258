"""Workers of a fleet, with a real server and real processes."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet.ready import connected, ready_server
from tests.support.fleet.server import Server
from tests.support.fleet.worker import ADD, HandmadeDaemon, Worker, add_call
from wasmdrop.fleet.messages import Ran


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with everything that a pool needs."""
    with ready_server(tmp_path_factory.mktemp("server")) as it:
        yield it


def test_worker_job_is_run_and_answered(server: Server, tmp_path: Path) -> None:
    """The answer has the outcome, the worker's name and its versions."""

    async def play() -> None:
        async with connected(server) as connection:
            daemon = HandmadeDaemon(connection)
            job = await daemon.publish(await daemon.upload(ADD), add_call(5, 7))
            answer = await daemon.answer(job)
            assert answer.worker == "one"
            assert isinstance(answer.content, Ran)

    with Worker(tmp_path / "one", server).running():
        asyncio.run(play())
