"""Undelivered results: on disk, within bounds, retried in turns, no delay for others."""

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from wasmdrop import settings
from wasmdrop.delivery.delivery import Delivery
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.undelivered_results import UndeliveredResults
from wasmdrop.protocol.outcome import Code, OutputFile, OutputTree
from wasmdrop.protocol.slot import Slot

GONE = FileNotFoundError(errno.ENOENT, "it is gone")


class Bench:
    """Undelivered results with a delivery that does what a test wants."""

    def __init__(self, base: Path, **variables: str) -> None:
        (base / "state").mkdir(exist_ok=True)
        self.settings = settings.load({"WASMDROP_STATE_DIR": str(base)} | variables, {}).settings
        self.journal = Journal(base / "state" / "journal.sqlite")
        self.metrics = Metrics()
        self.errors: dict[str, OSError] = {}
        """Errors of opening a directory, by directory."""
        self.slot_errors: dict[str, OSError] = {}
        """Errors of delivery, by slot."""
        self.probed: list[str] = []
        self.delivered: list[str] = []
        self.settled: list[tuple[str, bool]] = []
        self.has_settled = asyncio.Event()
        self.loads = 0
        self.in_memory = self.most_in_memory = 0
        self.undelivered = UndeliveredResults(
            self.settings, self.journal, cast("Delivery", self), self.metrics, self._on_settled
        )

    def _on_settled(self, job: Job, runs_again: bool) -> None:
        self.settled.append((job.slot.key, runs_again))
        self.has_settled.set()

    # What the delivery does

    def probe(self, directory: str) -> "asyncio.Future[None]":
        """Open a directory, or fail."""
        self.probed.append(directory)
        return self._done(self.errors.get(directory))

    def deliver_again(self, slot: Slot, _package: ResultPackage) -> "asyncio.Future[None]":
        """Deliver, or fail."""
        self.loads += 1
        error = self.slot_errors.get(slot.key)
        if error is None:
            self.delivered.append(slot.key)
        self.in_memory += 1
        self.most_in_memory = max(self.most_in_memory, self.in_memory)
        future = self._done(None, later=True)
        future.add_done_callback(lambda _future: self._forget())
        if error is not None:
            future.cancel()
            return self._done(error)
        return future

    @staticmethod
    def _succeed(future: "asyncio.Future[None]") -> None:
        if not future.done():
            future.set_result(None)

    def _forget(self) -> None:
        self.in_memory -= 1

    def _done(self, error: OSError | None, *, later: bool = False) -> "asyncio.Future[None]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if error is not None:
            future.set_exception(error)
        elif later:
            loop.call_later(0.001, self._succeed, future)
        else:
            future.set_result(None)
        return future

    # What a test does

    async def keep(
        self, name: str, size_bytes: int = 10, error: OSError = GONE, **changes: Any
    ) -> Job:
        """Keep results whose first delivery failed."""
        job = await self.executed(name, **changes)
        package = ResultPackage({".json": bytes(size_bytes)}, b"{}")
        await self.undelivered.keep(job, package, "gone", self._done(error))
        return job

    async def executed(self, name: str, **changes: Any) -> Job:
        """Accept a job and execute it."""
        directory = f"/shared/{Path(name).parent}"
        slot = Slot(name, f"/shared/{name}", directory, "result")
        job = Job(f"job-{name.replace('/', '-')}", slot, 1)
        await self.journal.accept(job, b"{}", {})
        changes = {"finished_at_ns": time.time_ns(), "code": Code.OK} | changes
        return self.journal.move_lazily(job, JobState.EXECUTED, **changes)

    async def until(self, look: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + 60
        while not look():
            assert time.monotonic() < end
            await asyncio.sleep(0.002)

    async def state(self, job: Job) -> JobState:
        """Return the state in the journal."""
        return (await self.journal.load_job(job.id)).job.state


def with_bench(base: Path, use: Callable[[Bench], Awaitable[None]], **variables: str) -> None:
    """Use a bench."""

    async def run() -> None:
        bench = Bench(base, **variables)
        try:
            await use(bench)
        finally:
            bench.undelivered.stop()
            await bench.undelivered.ended()
            await bench.journal.close()

    asyncio.run(run())


def test_undelivered_results_are_loaded_only_if_their_directory_opens(
    tmp_path: Path,
) -> None:
    """The slot is held until then; afterwards nothing is left on disk."""

    async def use(bench: Bench) -> None:
        bench.errors["/shared/a"] = GONE
        job = await bench.keep("a/input.json", 100_000)
        assert bench.undelivered.holds("a/input.json")
        assert bench.metrics.undelivered == 1
        assert bench.metrics.undelivered_bytes > 100_000
        await bench.until(lambda: len(bench.probed) >= 3)
        assert bench.loads == 0
        del bench.errors["/shared/a"]
        await bench.until(lambda: bool(bench.settled))
        assert bench.settled == [("a/input.json", False)]
        assert not bench.undelivered.holds("a/input.json")
        assert await bench.state(job) is JobState.DELIVERED
        assert (bench.metrics.undelivered, bench.metrics.undelivered_bytes) == (0, 0)
        files = tmp_path / "state" / "undelivered"
        await bench.until(lambda: not list(files.iterdir()))

    with_bench(tmp_path, use)


@pytest.mark.parametrize(
    ("variables", "left"),
    [({"WASMDROP_UNDELIVERED_JOBS": "3"}, 3), ({"WASMDROP_UNDELIVERED_MB": "1"}, 2)],
)
def test_undelivered_results_over_quota_lose_the_oldest(
    tmp_path: Path, variables: dict[str, str], left: int
) -> None:
    """Each with an event and counted; the others stay as they are."""

    async def use(bench: Bench) -> None:
        bench.errors = {f"/shared/{number}": GONE for number in range(6)}
        with structlog.testing.capture_logs() as events:
            jobs = [await bench.keep(f"{number}/input.json", 400_000) for number in range(6)]
            await bench.until(lambda: len(bench.settled) == 6 - left)
        gone = [event for event in events if event["event"] == "result-discarded"]
        assert [event["slot"] for event in gone] == [f"{at}/input.json" for at in range(6 - left)]
        assert all(event["bytes"] > 400_000 for event in gone)
        assert [event["job"] for event in gone] == [job.id for job in jobs[: 6 - left]]
        states = [await bench.state(job) for job in jobs]
        assert states == [JobState.DISCARDED] * (6 - left) + [JobState.EXECUTED] * left
        assert bench.metrics.undelivered == left
        assert bench.metrics.results_discarded == 6 - left
        files = tmp_path / "state" / "undelivered"
        await bench.until(lambda: len(list(files.iterdir())) == left)

    with_bench(tmp_path, use, **variables)


def test_undelivered_results_output_files_count_and_are_removed(tmp_path: Path) -> None:
    """They are in the state directory, too."""

    async def use(bench: Bench) -> None:
        bench.errors["/shared/a"] = GONE
        root = tmp_path / "output"
        (root / "below").mkdir(parents=True)
        (root / "below" / "left").write_bytes(b"left")
        tree = OutputTree(str(root), (OutputFile("below/left", "", 2**21),), ("below",))
        job = await bench.executed("a/input.json")
        package = ResultPackage({".json": b"{}"}, b"{}", tree)
        await bench.undelivered.keep(job, package, "gone", bench._done(GONE))
        await bench.until(lambda: not root.exists())
        assert await bench.state(job) is JobState.DISCARDED

    with_bench(tmp_path, use, WASMDROP_UNDELIVERED_MB="1")


def test_undelivered_results_directories_take_turns_and_few_are_in_memory(tmp_path: Path) -> None:
    """However many of one directory wait; all are delivered in the end."""

    async def use(bench: Bench) -> None:
        names = [f"many/input-{number}.json" for number in range(100)]
        bench.errors = {"/shared/many": GONE, "/shared/few": GONE}
        for name in (*names, "few/input.json"):
            await bench.keep(name)
        bench.errors.clear()
        await bench.until(lambda: len(bench.settled) == 101)
        assert bench.delivered.index("few/input.json") < 60
        assert bench.most_in_memory <= 2
        assert sorted(bench.delivered) == sorted((*names, "few/input.json"))

    with_bench(tmp_path, use)


def test_undelivered_results_failing_slot_does_not_delay_its_directory(
    tmp_path: Path,
) -> None:
    """Only the failing slot waits longer each time."""

    async def use(bench: Bench) -> None:
        bench.errors["/shared/a"] = GONE
        await bench.keep("a/input-bad.json")
        for number in range(20):
            await bench.keep(f"a/input-{number}.json")
        bench.slot_errors["a/input-bad.json"] = PermissionError(errno.EPERM, "not yours")
        bench.errors.clear()
        await bench.until(lambda: len(bench.settled) == 20)
        assert bench.undelivered.holds("a/input-bad.json")
        bench.slot_errors.clear()
        await bench.until(lambda: len(bench.settled) == 21)

    with_bench(tmp_path, use)


def test_undelivered_results_of_a_slot_gone_too_long_are_discarded(tmp_path: Path) -> None:
    """Newer results of its directory stay."""

    async def use(bench: Bench) -> None:
        bench.errors["/shared/a"] = GONE
        long_ago = time.time_ns() - 100 * 10**9
        with structlog.testing.capture_logs() as events:
            old = await bench.keep("a/input-old.json", finished_at_ns=long_ago)
            new = await bench.keep("a/input-new.json")
            await bench.until(lambda: bool(bench.settled))
        assert [e["slot"] for e in events if e["event"] == "result-discarded"] == [
            "a/input-old.json"
        ]
        assert await bench.state(old) is JobState.DISCARDED
        assert await bench.state(new) is JobState.EXECUTED

    with_bench(tmp_path, use, WASMDROP_LET_GO_SEC="60")


@pytest.mark.parametrize("succeeds", [True, False])
def test_undelivered_results_slow_first_delivery_settles_when_it_ends(
    tmp_path: Path, succeeds: bool
) -> None:
    """It is neither retried nor discarded while it is under way."""

    async def use(bench: Bench) -> None:
        job = await bench.executed("a/input.json")
        placed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        package = ResultPackage({".json": b"{}"}, b"{}")
        await bench.undelivered.keep(job, package, "slow", placed)
        await bench.keep("b/input.json")
        # The bound is one: it is the other one that goes, or is delivered.
        await bench.until(lambda: len(bench.settled) == 1)
        assert bench.settled == [("b/input.json", False)]
        assert bench.undelivered.holds("a/input.json")
        if succeeds:
            placed.set_result(None)
        else:
            placed.set_exception(OSError(errno.EIO, "broken"))
        await bench.until(lambda: len(bench.settled) == 2)
        assert await bench.state(job) is JobState.DELIVERED
        assert ("a/input.json" in bench.delivered) is not succeeds

    with_bench(tmp_path, use, WASMDROP_UNDELIVERED_JOBS="1")


def test_undelivered_results_of_an_earlier_daemon_resume_without_loading(
    tmp_path: Path,
) -> None:
    """They are delivered when that is possible; if they were lost, the job is rerun."""

    async def before(bench: Bench) -> None:
        bench.errors = {"/shared/a": GONE, "/shared/b": GONE}
        await bench.keep("a/input.json", 100_000)
        await bench.keep("b/input.json", 100_000)

    async def after(bench: Bench) -> None:
        bench.errors = {"/shared/a": GONE, "/shared/b": GONE}
        for one in await bench.journal.open_jobs():
            assert one.kept_bytes is not None
            assert one.kept_bytes > 100_000
            bench.undelivered.resume(one.job, one.kept_bytes)
        bench.journal.remove_results("job-b-input.json")
        await bench.until(lambda: len(set(bench.probed)) == 2)
        assert bench.loads == 0
        bench.errors.clear()
        await bench.until(lambda: len(bench.settled) == 2)
        assert sorted(bench.settled) == [("a/input.json", False), ("b/input.json", True)]
        assert bench.delivered == ["a/input.json"]

    with_bench(tmp_path, before)
    with_bench(tmp_path, after)
