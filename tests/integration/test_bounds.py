"""Drops take bounded memory and disk, whatever their outcome, and delay no other drop."""

import asyncio
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Final

import pytest
from benchmarks.usage import resident_mb
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import with_fib
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import Slot

GOOD: Final = '{"entry":"fib","args":[12],"id":"%d"}'
ANSWER: Final = bytes(wat2wasm('(module (func (export "run") (result i32) (i32.const 42)))'))

_LARGE_BYTES: Final = 7 * 1024 * 1024


def _keep_results(daemon: Daemon, count: int, size_bytes: int) -> None:
    """Leave the state of a daemon whose slots are gone: results that wait."""

    async def keep() -> None:
        daemon.state.mkdir(mode=0o700)
        journal = Journal(daemon.state / "journal.sqlite")
        try:
            for number in range(count):
                key = f"gone-{number % 5}/input-{number}.json"
                path = daemon.shared / key
                slot = Slot(key, str(path), str(path.parent), f"result-{number}")
                job = Job(f"job-{number}", slot, 1, finished_at_ns=time.time_ns())
                await journal.accept(job, b"{}", {})
                job = journal.move_lazily(job, JobState.EXECUTED, attempt=1, code=Code.OK)
                package = ResultPackage({".json": b"{}\n", ".stdout": bytes(size_bytes)}, b"{}")
                await journal.keep_package(job, package, "gone")
        finally:
            await journal.close()

    asyncio.run(keep())


def test_results_of_removed_slots_take_no_memory(tmp_path: Path) -> None:
    """Neither at the start nor while delivery is retried; others are served meanwhile."""
    daemon = with_fib(tmp_path)
    _keep_results(daemon, 30, _LARGE_BYTES)
    with daemon.running():
        assert daemon.process is not None
        wait_until(lambda: daemon.events("delivery-postponed"), "a try")
        for number in range(5):
            daemon.submit("input.json", GOOD % number)
        # A third of those that wait: one may be under way.
        assert resident_mb(daemon.process.pid, "VmHWM") < 100
        assert not (daemon.shared / "gone-0").exists()
        (daemon.shared / "gone-0").mkdir()
        for number in range(0, 30, 5):
            path = daemon.shared / "gone-0" / f"result-{number}.stdout"
            done = path.with_suffix(".done")
            wait_until(done.exists, f"the results of slot {number}")
            assert path.stat().st_size == _LARGE_BYTES
        assert resident_mb(daemon.process.pid, "VmHWM") < 150


def test_results_past_the_limit_evict_the_oldest_and_are_logged(tmp_path: Path) -> None:
    """Their slots can be used again.

    The newest results are delivered when their slots come back.
    """
    daemon = with_fib(tmp_path, WASMDROP_UNDELIVERED_JOBS="3", WASMDROP_MODULE_WAIT_SEC="60")
    # The jobs begin before their removal is noticed.
    daemon.environment["WASMDROP_SETTLE_SEC"] = "3600"
    with daemon.running():
        names = [f"gone-{number}/input.json" for number in range(6)]
        for name in names:
            drop(daemon.shared / name, '{"module":"late"}')
        daemon.submit("input.json", GOOD % 0)  # inputs are taken in the order of their drops
        for name in names:
            shutil.rmtree((daemon.shared / name).parent)
        drop(daemon.wasm / "late.wasm", ANSWER)
        gone = wait_until(
            lambda: found if len(found := daemon.events("result-discarded")) == 3 else None,
            "results to be discarded",
        )
        wait_until(lambda: len(daemon.events("delivery-failed")) == 6, "all deliveries to fail")
        slots = {event["slot"] for event in gone}
        assert len(slots) == 3
        assert all(event["bytes"] > 0 and event["job"] for event in gone)
        for name in names:
            (daemon.shared / name).parent.mkdir()
        for name in set(names) - slots:
            wait_until(lambda name=name: daemon.marker(name), f"the marker of {name}")  # type: ignore[misc]
        discarded = min(slots)
        assert daemon.marker(discarded) is None
        daemon.submit(discarded, GOOD % 1)
        assert daemon.result(discarded)["results"] == [144]


def test_module_rewritten_often_is_read_rarely_and_the_last_version_counts(tmp_path: Path) -> None:
    """A thousand versions are written while the daemon reads the first."""
    daemon = with_fib(tmp_path)
    module = daemon.shared / "busy" / "module.wasm"
    with daemon.running():
        drop(module, ANSWER)
        daemon.submit("busy/input.json", "{}")
        rewrites = 1000
        for number in range(rewrites):
            text = f'(module (func (export "run") (result i32) (i32.const {number})))'
            drop(module, bytes(wat2wasm(text)))
        daemon.submit("input.json", GOOD % 0)
        result = daemon.shared / "busy" / "result.txt"
        last_line = f"\n{rewrites - 1}\n"
        wait_until(lambda: result.read_text().endswith(last_line), "the last version to run")
        looks = [one for one in daemon.events("module-dropped") if one["path"] == str(module)]
        assert len(looks) < rewrites / 2


@pytest.mark.parametrize("kill", [False, True])
def test_slots_that_wait_for_a_module_rerun_with_a_small_queue(tmp_path: Path, kill: bool) -> None:
    """Each of them, even if the daemon is killed in the middle."""
    daemon = with_fib(tmp_path, WASMDROP_MAX_QUEUED="20", WASMDROP_MODULE_WAIT_SEC="0.1")
    names = [f"many/input-{number}.json" for number in range(150)]
    daemon.start()
    for name in names:
        drop(daemon.shared / name, json.dumps({"module": "late", "id": name}))
    for name in names:
        wait_until(lambda name=name: daemon.marker(name), f"the marker of {name}")  # type: ignore[misc]
    drop(daemon.wasm / "late.wasm", ANSWER)

    def done() -> int:
        markers = (daemon.marker(name) for name in names)
        return sum(marker is not None and marker["code"] == "ok" for marker in markers)

    if kill:
        wait_until(lambda: done() > 0, "the first of them")
        daemon.kill()
        daemon.start()
    wait_until(lambda: done() == len(names), "all of them")
    assert daemon.stop() == 0
    ran = [event["slot"] for event in daemon.events("job-finished") if event["code"] == "ok"]
    # A job that was running when the daemon died is rerun; its line may exist twice.
    twice = {name for name, count in _counted(ran) if count > 1}
    assert len(twice) <= (20 if kill else 0)


def _counted(names: list[str]) -> list[tuple[str, int]]:
    return [(name, len(list(group))) for name, group in itertools.groupby(sorted(names))]
