"""A daemon that lost its state directory while the fleet still has its jobs and their outcomes."""

import asyncio
import shutil
from pathlib import Path
from typing import Final

from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fleet.machines import Worker
from tests.support.fleet.ready import connected, ready_server
from tests.support.fleet.server import Server
from wasmdrop.fleet.names import (
    daemon_jobs_filter,
    job_stream,
    outcome_stream,
    outcomes_filter,
)

_JOBS: Final = 20

#: Takes a while, so that the worker dies with jobs in the queue.
_DOUBLE: Final = """
(module (func (export "run") (param $number i64) (result i64) (local $turns i64)
  (local.set $turns (i64.const 100000000))
  (loop $again
    (local.set $turns (i64.sub (local.get $turns) (i64.const 1)))
    (br_if $again (i64.gt_s (local.get $turns) (i64.const 0))))
  (i64.mul (local.get $number) (i64.const 2))))
"""


def _queued(server: Server) -> tuple[int, int]:
    """Return the numbers of jobs and of outcomes that the server has."""

    async def ask() -> tuple[int, int]:
        async with connected(server) as connection:
            subjects = daemon_jobs_filter("default", "d")
            jobs = await connection.subjects(job_stream("default"), subjects)
            outcomes = await connection.subjects(outcome_stream("d"), outcomes_filter("d"))
        return len(jobs), len(outcomes)

    return asyncio.run(ask())


def test_daemon_with_a_new_state_directory_serves_all_and_drops_what_it_does_not_know(
    tmp_path: Path,
) -> None:
    """Answers to jobs of the lost journal are acknowledged and have no effect."""
    with ready_server(tmp_path / "server", ["d"]) as server:
        variables = {"WASMDROP_FLEET": server.url}
        daemon = Daemon(
            tmp_path / "d", WASMDROP_FLEET_NAME="d", WASMDROP_FLEET_FALLBACK="wait", **variables
        )
        worker = Worker(tmp_path / "worker", None, variables)
        drop(daemon.wasm / "module.wasm", bytes(wat2wasm(_DOUBLE)))
        for number in range(_JOBS):
            drop(daemon.shared / f"input-{number}.json", {"args": [number]})
        daemon.start()
        wait_until(lambda: _queued(server)[0] == _JOBS, "all jobs to be in the fleet")
        daemon.kill()
        worker.launch()
        try:
            wait_until(lambda: _queued(server)[1] > 2, "outcomes that no daemon receives")
            worker.kill()
            shutil.rmtree(daemon.state)
            worker.launch()
            with daemon.running():
                for number in range(_JOBS):
                    name = f"input-{number}.json"
                    daemon.wait_for(name, (daemon.shared / name).read_bytes())
                    assert daemon.result(name)["results"] == [number * 2]
                wait_until(lambda: _queued(server) == (0, 0), "no jobs and no outcomes of old")
                assert len(daemon.lines()) == _JOBS
        finally:
            if worker.process is not None:
                worker.kill()
