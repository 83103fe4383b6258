"""Dropped modules: which slots they rerun, each once, in turns."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from wasmdrop import settings
from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.drops import InputDrop, ModuleDrop
from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.taken_versions import TakenVersions
from wasmdrop.jobs.dispatcher import Dispatcher
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.module_lookup import ModuleLookup
from wasmdrop.jobs.module_reruns import ModuleReruns
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import FileVersion, InputFile, PinnedModule, Slot


class Bench:
    """Reruns in new directories; records the calls to the dispatcher."""

    def __init__(self, base: Path) -> None:
        self.shared, self.wasm = base / "shared", base / "wasm"
        for directory in (self.shared, self.wasm, base / "state"):
            directory.mkdir()
        places = {
            "WASMDROP_WASM_DIR": str(self.wasm),
            "WASMDROP_SHARED_DIR": str(self.shared),
            "WASMDROP_STATE_DIR": str(base / "state"),
        }
        loaded = settings.load(places, {}).settings
        self.layout = Layout(loaded)
        self.journal = Journal(base / "state" / "journal.sqlite")
        self.intake = Intake(
            loaded,
            self.layout,
            TakenVersions(self.journal.path, pytest.fail),
            Backlog(1_000_000),
            lambda _slot, _reference: None,
        )
        self.learned: list[str] = []
        self.learn: Callable[[str], PinnedModule | None] = lambda _path: None
        self.woken: list[tuple[str, str | None]] = []
        self.ran: list[str] = []
        self.without_input: list[str] = []
        self.may_queue = asyncio.Event()
        self.may_queue.set()
        self.waits_for_room = asyncio.Event()
        self.queued: dict[str, Job] = {}
        self.has_just_run: set[tuple[str, FileVersion]] = set()
        self.reruns = self.new_reruns()

    def new_reruns(self) -> ModuleReruns:
        """Return the reruns of a daemon that starts."""
        return ModuleReruns(
            self.layout,
            self.intake.read_again,
            self._learn,
            self.journal,
            cast("ModuleLookup", self),
            cast("Dispatcher", self),
        )

    def _learn(self, path: str) -> PinnedModule | None:
        self.learned.append(path)
        return self.learn(path)

    # What the dispatcher does

    def last_job(self, slot: Slot) -> Job | None:
        """Return the job that a test has set."""
        return self.queued.get(slot.key)

    def has_run(self, slot: Slot, version: FileVersion) -> bool:
        """Return whether the test has set it."""
        return (slot.key, version) in self.has_just_run

    def wake(self, path: str, sha256: str | None) -> None:
        """Note it."""
        self.woken.append((path, sha256))

    async def room(self) -> None:
        """Wait until the test lets it."""
        if not self.may_queue.is_set():
            self.waits_for_room.set()
        await self.may_queue.wait()

    def rerun(self, drop: InputDrop) -> "asyncio.Future[None]":
        """Record the call and accept a job, as the dispatcher does."""
        self.ran.append(drop.slot.key)
        job = Job(f"again-{len(self.ran)}-{drop.slot.key}", drop.slot, 2)
        self.queued[drop.slot.key] = job
        return self.journal.accept(job, drop.data, {drop.slot.input_path: drop.taken})

    def run_without_input(self, slot: Slot, *, owes_result: bool) -> None:
        """Note it."""
        assert not owes_result
        self.without_input.append(slot.key)

    # What a test does

    async def fail(self, name: str, reference: str | None, **changes: Any) -> Job:
        """Create a slot whose latest job failed because of its module."""
        path = self.shared / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"module":"{reference}"}}' if reference else "{}")
        self.intake.consider(str(path))
        slot = self.layout.slot_of(str(path))
        assert slot is not None
        job = Job(f"job-{name}", slot, 1, input=InputFile(str(path), "", 2))
        job = msgspec.structs.replace(job, module_reference=reference, **changes)
        await self.journal.accept(job, b"{}", {})
        job = self.journal.move_lazily(job, JobState.EXECUTED, code=Code.MODULE_MISSING)
        return self.journal.move_lazily(job, JobState.DELIVERED)

    def drop(self, path: Path | str, number: int = 1) -> None:
        """Drop a version of a module."""
        version = FileVersion(1, 1, 1, number)
        self.reruns.take(ModuleDrop(str(path), version, b"taken-%d" % number))

    async def remembered(self, path: Path | str) -> bytes | None:
        """Return the version of a module that the journal has as taken."""

        def read(connection: Any) -> Any:
            row = (os.fsencode(path),)
            return connection.execute("SELECT version FROM taken WHERE path = ?", row).fetchone()

        found = await self.journal._thread.submit(read)
        return None if found is None else cast("bytes", found[0])

    async def until_remembered(self, path: Path | str, number: int = 1) -> None:
        """Wait until a drop is remembered."""
        end = time.monotonic() + 60
        while await self.remembered(path) != b"taken-%d" % number:
            assert time.monotonic() < end
            await asyncio.sleep(0.005)


def with_bench(base: Path, use: Callable[[Bench], Awaitable[None]]) -> None:
    """Use a bench."""

    async def run() -> None:
        bench = Bench(base)
        try:
            await use(bench)
        finally:
            bench.reruns.stop()
            await bench.reruns.ended()
            bench.intake.close()
            await bench.journal.close()

    asyncio.run(run())


async def five_failed(bench: Bench) -> None:
    """Create slots that want different modules."""
    await bench.fail("a/input.json", "nope")
    await bench.fail("a/input-suffix.json", "nope.wasm")
    await bench.fail("a/input-other.json", "other")
    await bench.fail("b/input.json", None)
    await bench.fail("c/input.json", f"sha256:{'AB' * 32}")


@pytest.mark.parametrize(
    ("dropped", "wanted"),
    [
        ("wasm/nope.wasm", ["a/input-suffix.json", "a/input.json"]),
        ("wasm/nope", ["a/input.json"]),
        ("wasm/sub/nope.wasm", []),
        ("wasm/module.wasm", ["b/input.json"]),
        ("shared/b/module.wasm", ["b/input.json"]),
        ("shared/a/module.wasm", []),
    ],
)
def test_module_reruns_drop_reruns_slots_that_want_the_module(
    tmp_path: Path, dropped: str, wanted: list[str]
) -> None:
    """Each once, and no others; then the drop is remembered."""

    async def use(bench: Bench) -> None:
        await five_failed(bench)
        path = tmp_path / dropped
        bench.drop(path)
        await bench.until_remembered(path)
        assert sorted(bench.ran) == wanted
        assert bench.woken == [(str(path), None)]

    with_bench(tmp_path, use)


def test_module_reruns_drop_reruns_slots_that_want_its_digest(tmp_path: Path) -> None:
    """Wherever it is dropped; not a slot that failed with this very module."""

    async def use(bench: Bench) -> None:
        digest = "ab" * 32
        await five_failed(bench)
        pinned = PinnedModule(f"sha256:{digest}", digest, 1)
        await bench.fail("d/input.json", f"sha256:{digest}", module=pinned)
        bench.learn = lambda path: PinnedModule(path, digest, 1)
        bench.drop(bench.wasm / "new.wasm")
        await bench.until_remembered(bench.wasm / "new.wasm")
        assert bench.ran == ["c/input.json"]
        assert bench.woken == [(str(bench.wasm / "new.wasm"), digest)]

    with_bench(tmp_path, use)


def test_module_reruns_slot_beside_module_reruns_unless_it_names_or_ran_one(
    tmp_path: Path,
) -> None:
    """Nor if one of its jobs has yet to look for its module."""

    async def use(bench: Bench) -> None:
        directory = bench.shared / "a"
        directory.mkdir()
        for name in ("input", "input-named", "input-ran", "input-waits"):
            text = '{"module":"x"}' if name == "input-named" else "{}"
            (directory / f"{name}.json").write_text(text)
            bench.intake.consider(str(directory / f"{name}.json"))
        ran, waits = (
            bench.layout.slot_of(str(directory / f"input-{name}.json")) for name in ("ran", "waits")
        )
        assert ran is not None
        assert waits is not None
        module = PinnedModule(str(directory / "module.wasm"), "", 1, FileVersion(1, 1, 1, 1))
        await bench.journal.accept(Job("1", ran, 1, module=module), None, {})
        bench.queued[waits.key] = Job("2", waits, 1)
        bench.drop(directory / "module.wasm")
        await bench.until_remembered(directory / "module.wasm")
        assert bench.ran == ["a/input.json"]

    with_bench(tmp_path, use)


def test_module_reruns_last_job_keeps_an_older_module_reruns_the_slot(tmp_path: Path) -> None:
    """The job before it has found the dropped one, which says nothing about the last job."""

    async def use(bench: Bench) -> None:
        module = bench.shared / "a" / "module.wasm"
        job = await bench.fail("a/input.json", None)
        older = PinnedModule(str(module), "", 1, FileVersion(1, 1, 1, 1))
        bench.queued[job.slot.key] = msgspec.structs.replace(job, module=older)
        bench.has_just_run.add((job.slot.key, FileVersion(1, 1, 1, 2)))
        bench.drop(module, 2)
        await bench.until_remembered(module, 2)
        assert bench.ran == [job.slot.key]

    with_bench(tmp_path, use)


def test_module_reruns_default_module_without_input_runs_without_one(tmp_path: Path) -> None:
    """After a moment, in which an input may arrive."""

    async def use(bench: Bench) -> None:
        bench.drop(bench.wasm / "module.wasm")
        await bench.until_remembered(bench.wasm / "module.wasm")
        assert bench.without_input == ["input.json"]
        assert bench.ran == []

    with_bench(tmp_path, use)


def test_module_reruns_drops_of_a_path_in_work_become_one_later_pass(tmp_path: Path) -> None:
    """However many there are; the last version is read and remembered."""

    async def use(bench: Bench) -> None:
        path = bench.wasm / "nope.wasm"
        for number in range(1, 1001):
            bench.drop(path, number)
        await bench.until_remembered(path, 1000)
        assert bench.learned == [str(path)]
        bench.drop(path, 1001)
        for number in range(1002, 2001):
            bench.drop(path, number)
        await bench.until_remembered(path, 2000)
        assert len(bench.learned) <= 3

    with_bench(tmp_path, use)


def test_module_reruns_directory_with_many_modules_does_not_delay_another(tmp_path: Path) -> None:
    """Its modules take turns with those of others; the operator's come first."""

    async def use(bench: Bench) -> None:
        many = [bench.shared / "many" / f"d{number}" / "x" for number in range(3)]
        paths = [
            directory.parent / f"module-{number}.wasm" for directory in many for number in range(50)
        ]
        for path in paths:
            bench.drop(path)
        bench.drop(bench.shared / "few" / "module.wasm")
        bench.drop(bench.wasm / "own.wasm")
        for path in (bench.shared / "few" / "module.wasm", bench.wasm / "own.wasm"):
            await bench.until_remembered(path)
        assert bench.learned.index(str(bench.wasm / "own.wasm")) <= 1
        assert bench.learned.index(str(bench.shared / "few" / "module.wasm")) <= 5

    with_bench(tmp_path, use)


def test_module_reruns_full_backlog_delays_slots_and_the_memory_of_the_drop(tmp_path: Path) -> None:
    """A drop is remembered after its last slot is queued: the daemon may be killed."""

    async def use(bench: Bench) -> None:
        for number in range(50):
            await bench.fail(f"a/input-{number:02}.json", "nope")
        path = bench.wasm / "nope.wasm"
        bench.may_queue.clear()
        bench.drop(path)
        await asyncio.wait_for(bench.waits_for_room.wait(), 60)
        assert bench.ran == []
        assert await bench.remembered(path) is None
        bench.may_queue.set()
        await bench.until_remembered(path)
        assert bench.ran == [f"a/input-{number:02}.json" for number in range(50)]

    with_bench(tmp_path, use)


def test_module_reruns_interrupted_pass_continues_with_the_remaining_slots(tmp_path: Path) -> None:
    """The next daemon takes the drop as new, and reruns no slot twice."""

    async def use(bench: Bench) -> None:
        for number in range(40):
            await bench.fail(f"a/input-{number:02}.json", "nope")
        path = bench.wasm / "nope.wasm"
        stopped = asyncio.Event()

        async def room() -> None:
            if bench.ran:
                bench.reruns.stop()
                stopped.set()
                await asyncio.sleep(60)

        bench.room = room  # type: ignore[method-assign]
        bench.drop(path)
        await asyncio.wait_for(stopped.wait(), 60)
        await bench.reruns.ended()
        assert len(bench.ran) == 16
        assert await bench.remembered(path) is None
        bench.room = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
        bench.reruns = bench.new_reruns()
        bench.drop(path)
        await bench.until_remembered(path)
        assert bench.ran == [f"a/input-{number:02}.json" for number in range(40)]

    with_bench(tmp_path, use)
