"""Answers of workers that were taken over: each is refused, and the job ends right in the end.

A real server, a real daemon that runs nothing itself, and one worker that lies.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fleet.lying_worker import HONEST_FILE, HONEST_STDOUT, LIES, LyingWorker
from tests.support.fleet.output_bodies import left_below
from tests.support.fleet.ready import ready_server
from tests.support.wasi_programs import FILES

#: Answers that are not valid, after which a job is not published again.
MOST: Final = 3

#: A command that may leave files. The worker never runs it.
PROGRAM: Final = f'(module {FILES} (func (export "_start")))'

#: Memory that the daemon may need beyond that of its start, in bytes, while all lies are told.
MEMORY_BYTES: Final = 64 << 20

NAMES: Final = sorted(LIES)


class Scene:
    """A daemon whose jobs a lying worker answers."""

    def __init__(self, daemon: Daemon, worker: LyingWorker) -> None:
        self.daemon = daemon
        self.worker = worker

    def drop(self, lie: str, count: int) -> None:
        """Drop a job whose lie is told so often."""
        drop(self.daemon.shared / self.name(lie, count), self.content(lie, count))

    def marker(self, lie: str, count: int) -> dict[str, Any]:
        """Wait for the marker of such a job."""
        drop_of = self.daemon.shared / self.name(lie, count)
        return self.daemon.wait_for(self.name(lie, count), drop_of.read_bytes())

    def flaws(self, job: str) -> list[str]:
        """Wait until all refused answers of a job are logged; return what was wrong with them."""

        def look() -> list[str] | None:
            logged = self.daemon.events("fleet-answer-invalid")
            found = [event["flaw"] for event in logged if event["job"] == job]
            return found if len(found) >= MOST else None

        return wait_until(look, "the refused answers in the log")

    def name(self, lie: str, count: int) -> str:
        """Return the name of the input of such a job."""
        return f"{lie}-{count}/input.json"

    def content(self, lie: str, count: int) -> dict[str, Any]:
        """Return the input of such a job."""
        args = [lie, str(count)]
        return {"module": "program.wasm", "args": args, "output_mb": 0.125, "disk_mb": 1}


def resident_peak(pid: int) -> int:
    """Return the largest resident memory of a process so far, in bytes; see proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Give a scene in which all lies are on their way: the tests wait for their ends."""
    base = tmp_path_factory.mktemp("lies")
    with ready_server(base / "nats") as server, LyingWorker(server).running() as worker:
        daemon = Daemon(
            base,
            WASMDROP_FLEET=server.url,
            WASMDROP_FLEET_NAME="daemon",
            WASMDROP_FLEET_FALLBACK="wait",
            WASMDROP_ATTEMPTS="1",
            WASMDROP_LOG="json",
        )
        drop(daemon.wasm / "program.wasm", bytes(wat2wasm(PROGRAM)))
        with daemon.running():
            found = Scene(daemon, worker)
            found.drop("no-message", 0)
            found.marker("no-message", 0)
            assert daemon.process is not None
            before = resident_peak(daemon.process.pid)
            for name in NAMES:
                found.drop(name, 1)
                found.drop(name, MOST)
            yield found
            assert resident_peak(daemon.process.pid) - before < MEMORY_BYTES
        assert worker.problems == []
        assert left_below(daemon.state) == []
        assert not list(base.rglob("*evil*"))
        assert not Path("/evil").exists()


@pytest.mark.parametrize("lie", NAMES)
def test_lie_told_once_delays_the_job(scene: Scene, lie: str) -> None:
    """It is published again; the honest answer is delivered."""
    marker = scene.marker(lie, 1)
    assert (marker["code"], marker["worker"]) == ("ok", "liar"), marker["message"]
    name = scene.name(lie, 1)
    assert scene.daemon.result(name)["stdout"] == HONEST_STDOUT.decode()
    path, content = HONEST_FILE
    output = scene.daemon.result_path(name, ".output")
    assert [one.name for one in output.iterdir()] == [path]
    assert (output / path).read_bytes() == content


@pytest.mark.parametrize("lie", NAMES)
def test_lie_told_again_and_again_ends_the_job_as_internal(scene: Scene, lie: str) -> None:
    """After three of them, with the reason; nothing of them is delivered."""
    marker = scene.marker(lie, MOST)
    assert marker["code"] == "internal"
    message = str(marker["message"])
    assert message.startswith(f"the fleet sent {MOST} answers that are not valid; the last: ")
    assert LIES[lie][1] in message
    assert message.isprintable()
    assert not scene.daemon.result_path(scene.name(lie, MOST), ".output").exists()
    assert scene.worker.told[f"{lie}-{MOST}"] == MOST
    assert scene.flaws(marker["job"]) == [LIES[lie][0]] * MOST
