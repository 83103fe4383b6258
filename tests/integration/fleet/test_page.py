"""The control page of a daemon whose jobs run on workers."""

from pathlib import Path

import msgspec

from tests.support.daemon import drop, wait_until
from tests.support.fleet.ready import ready_server
from tests.support.fleet.worker import Worker
from tests.support.page import CHANGE, ask, overview, with_page
from wasmdrop.page.model import Fleet, Overview


def test_page_shows_workers_and_cancels_a_remote_job(tmp_path: Path) -> None:
    """The worker that runs it ends it, and takes another."""
    with ready_server(tmp_path / "server", ("page",), ("page",)) as server:
        daemon = with_page(
            tmp_path / "daemon",
            WASMDROP_FLEET=server.url,
            WASMDROP_FLEET_NAME="page",
            WASMDROP_FLEET_POOL="page",
            WASMDROP_FLEET_FALLBACK="wait",
        )
        worker = Worker(tmp_path / "w1", server, WASMDROP_FLEET_POOL="page", WASMDROP_WORKERS="1")
        with daemon.running(), worker.running():

            def seen() -> Overview:
                return msgspec.convert(overview(daemon), Overview)

            def fleet_seen() -> Fleet:
                fleet = seen().fleet
                assert fleet is not None
                return fleet

            fleet = wait_until(lambda: one if (one := fleet_seen()).workers else None, "the worker")
            assert fleet.is_connected
            assert fleet.pool == "page"
            assert [one.slots for one in fleet.workers] == [1]
            drop(daemon.shared / "input-slow.json", {"entry": "spin"})
            wait_until(lambda: [one for one in fleet_seen().workers if one.running], "its start")
            [job] = seen().running
            assert job.is_remote
            assert ask(daemon, f"/api/v1/jobs/{job.job}/cancel", "POST", CHANGE).status == 200
            marker = wait_until(lambda: daemon.marker("input-slow.json"), "its end")
            assert marker["code"] == "cancelled"
            assert daemon.submit("input.json", {"entry": "run", "args": [3]})["code"] == "ok"
            ended = wait_until(lambda: one if len(one := seen().ended) == 2 else None, "both")
            assert [(one.code, one.worker) for one in ended] == [("ok", "w1"), ("cancelled", None)]
