"""Module lookup: waiting for a module, compiling it, and modules that are still being written."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.jobs.fakes import FakeJournal, job
from wasmdrop import settings
from wasmdrop.intake.layout import Layout
from wasmdrop.jobs.job import JobState
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.module_lookup import AlreadyRunError, ModuleAwaitedError, ModuleLookup
from wasmdrop.jobs.work_table import Work, WorkTable
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import FileVersion, InputFile, PinnedModule
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.wire import EngineOptions

COMPILED = cast("CompiledModule", object())


class Bench:
    """A lookup whose files, executor and scheduler do what a test wants."""

    def __init__(self, base: Path) -> None:
        self.slot_key = "a/input.json"
        for name in ("shared", "wasm"):
            (base / name).mkdir()
        variables = {
            "WASMDROP_SHARED_DIR": str(base / "shared"),
            "WASMDROP_WASM_DIR": str(base / "wasm"),
            "WASMDROP_STATE_DIR": str(base / "state"),
            "WASMDROP_MODULE_WAIT_SEC": "1000",
            "WASMDROP_SETTLE_SEC": "0.001",
        }
        loaded = settings.load(variables, {}).settings
        self.path = str(base / "wasm" / "m.wasm")
        self.journal = FakeJournal()
        self.table = WorkTable(cast("Journal", self.journal))
        self.found: PinnedModule | None = None
        self.found_later: PinnedModule | None = None
        """What is found after a compilation was refused."""
        self.is_written = False
        self.refusals: list[RefusedError] = []
        self.compiles: list[str] = []
        self.in_cache: set[str] = set()
        self.resumed: list[str] = []
        self.yields = 0
        self.lookup = ModuleLookup(
            loaded,
            Layout(loaded),
            lambda _slot, _reference: self.found,
            lambda _path, _version, _lately: self.is_written,
            self,
            cast("Journal", self.journal),
            self.table,
        )

    # The executor

    def compiled(self, sha256: str, _options: EngineOptions) -> CompiledModule | None:
        """Return what is in memory."""
        return COMPILED if sha256 in self.in_cache else None

    async def compile(
        self, sha256: str, _options: EngineOptions, on_progress: Any = None, directory: str = ""
    ) -> CompiledModule:
        """Compile, or refuse."""
        self.compiles.append(sha256)
        on_progress(f"waits for a compile slot of {directory or 'all'}")
        if self.refusals:
            self.found = self.found_later
            raise self.refusals.pop(0)
        return COMPILED

    async def module_cid(self, sha256: str) -> str | None:
        """Never called: a lookup makes no results."""
        raise NotImplementedError

    capacity = 1

    def slot(self, *_arguments: Any) -> Any:
        """Never called: a lookup runs nothing."""
        raise NotImplementedError

    def cancel(self, _job_id: str) -> None:
        """Never called: no job of these tests is cancelled."""
        raise NotImplementedError

    def leave(self, _job_id: str) -> None:
        """Do nothing."""

    # The scheduler

    @contextlib.contextmanager
    def yield_room(self, _work: Work) -> Iterator[None]:
        """Count it."""
        self.yields += 1
        yield

    def resume(self, slot_key: str) -> None:
        """Note it."""
        self.resumed.append(slot_key)

    # What a test does

    def module(self, digest: str, number: int = 1) -> PinnedModule:
        """Return a version of the module."""
        return PinnedModule(self.path, digest, 1, FileVersion(1, 1, 1, number))

    def begin(self) -> Work:
        """Make a job the active one of its slot."""
        self.journal.jobs["1"] = job("1", self.slot_key)
        self.table.add(Work(self.journal.jobs["1"]))
        return self.table.begin(self.slot_key)

    def end_and_rerun(self, sha256: str = "", *, is_for_module: bool = True) -> None:
        """End the active job, and make one with an input of that digest the active one."""
        self.table.finish(self.slot_key)
        found = InputFile(f"/shared/{self.slot_key}", sha256, 2)
        self.journal.jobs["2"] = job("2", self.slot_key, input=found)
        self.table.add(Work(self.journal.jobs["2"], is_for_module=is_for_module))
        self.table.begin(self.slot_key)

    def own_module(self, digest: str, number: int = 1) -> PinnedModule:
        """Return a version of the module of the slot's own directory."""
        path = f"/shared/{self.slot_key.rpartition('/')[0]}/module.wasm"
        return PinnedModule(path, digest, 1, FileVersion(1, 1, 1, number))

    async def get(self, reference: str | None = "m") -> CompiledModule:
        """Look the module of the active job up."""
        work = self.table.begin(self.slot_key)
        return await self.lookup.compiled(work, reference, EngineOptions(), self)

    @property
    def state(self) -> JobState:
        """The state of the job."""
        return self.table.first(self.slot_key).job.state


def with_bench(base: Path, use: Callable[[Bench], Awaitable[None]]) -> None:
    """Use a bench."""

    async def run() -> None:
        bench = Bench(base)
        try:
            await use(bench)
        finally:
            bench.lookup.stop()
            bench.lookup.close()

    asyncio.run(run())


def test_lookup_present_module_is_pinned_and_compiled(tmp_path: Path) -> None:
    """The room of the job is others' meanwhile; what it waits for is noted."""

    async def use(bench: Bench) -> None:
        bench.found = bench.module("aa")
        work = bench.begin()
        assert await bench.get() is COMPILED
        current = bench.table.current(work)
        assert (current.job.module, current.job.state) == (bench.found, JobState.QUEUED)
        assert (bench.compiles, bench.yields) == (["aa"], 1)
        assert bench.journal.notes["1"] == "waits for a compile slot of a"

    with_bench(tmp_path, use)


@pytest.mark.parametrize(
    ("slot_key", "owner"), [("input.json", "all"), ("a/input.json", "a"), ("a/b/input.json", "a")]
)
def test_lookup_compilation_is_charged_to_the_topmost_directory(
    tmp_path: Path, slot_key: str, owner: str
) -> None:
    """Directories below it share its turn, and all root slots have one turn."""

    async def use(bench: Bench) -> None:
        bench.slot_key, bench.found = slot_key, bench.module("aa")
        bench.begin()
        assert await bench.get() is COMPILED
        assert bench.journal.notes["1"] == f"waits for a compile slot of {owner}"

    with_bench(tmp_path, use)


def test_lookup_module_in_memory_is_not_compiled(tmp_path: Path) -> None:
    """Not even when it is asked for by a job without a pinned module."""

    async def use(bench: Bench) -> None:
        bench.found, bench.in_cache = bench.module("aa"), {"aa"}
        work = bench.begin()
        assert bench.lookup.in_memory(work, EngineOptions()) is None
        assert await bench.get() is COMPILED
        assert bench.lookup.in_memory(bench.table.current(work), EngineOptions()) is COMPILED
        assert bench.compiles == []

    with_bench(tmp_path, use)


@pytest.mark.parametrize("by_digest", [True, False])
def test_lookup_missing_module_resumes_the_job_when_dropped(
    tmp_path: Path, by_digest: bool
) -> None:
    """By its path, or by its digest in any case of letters; not by another one."""

    async def use(bench: Bench) -> None:
        reference = f"sha256:{'AB' * 32}" if by_digest else "m"
        bench.begin()
        with pytest.raises(ModuleAwaitedError):
            await bench.get(reference)
        assert bench.state is JobState.WAITING
        assert (reference if by_digest else bench.path) in bench.journal.notes["1"]
        bench.lookup.wake(f"{bench.path}.other", "cd" * 32)
        assert bench.resumed == []
        path = "/elsewhere" if by_digest else bench.path
        bench.lookup.wake(path, "ab" * 32)
        assert bench.resumed == ["a/input.json"]
        bench.found = bench.module("ab" * 32)
        assert await bench.get(reference) is COMPILED

    with_bench(tmp_path, use)


def test_lookup_missing_module_is_refused_after_the_deadline(tmp_path: Path) -> None:
    """With the places where it was expected."""

    async def use(bench: Bench) -> None:
        work = bench.begin()
        with pytest.raises(ModuleAwaitedError):
            await bench.get()
        deadline = bench.table.current(work).deadline
        assert deadline is not None
        bench.table.evolve(work, deadline=deadline - 1000)
        with pytest.raises(RefusedError, match=r"wasm/m and .*wasm/m\.wasm") as refused:
            await bench.get()
        assert refused.value.code is Code.MODULE_MISSING

    with_bench(tmp_path, use)


def test_lookup_stopped_resumes_no_job(tmp_path: Path) -> None:
    """A job that looks for its module then ends as at a shutdown."""

    async def use(bench: Bench) -> None:
        bench.begin()
        bench.lookup.stop()
        with pytest.raises(asyncio.CancelledError):
            await bench.get()
        bench.lookup.wake(bench.path, None)
        assert bench.resumed == []

    with_bench(tmp_path, use)


@pytest.mark.parametrize("replaced", [True, False])
def test_lookup_invalid_module_is_compiled_again_only_if_replaced(
    tmp_path: Path, replaced: bool
) -> None:
    """The file may have been incomplete when it was read."""

    async def use(bench: Bench) -> None:
        bench.found = bench.found_later = bench.module("aa")
        bench.refusals = [RefusedError(Code.INVALID_MODULE, "half a module")]
        bench.begin()
        if replaced:
            bench.found_later = bench.module("bb", 2)
            assert await bench.get() is COMPILED
            assert bench.compiles == ["aa", "bb"]
        else:
            with pytest.raises(RefusedError, match="half a module"):
                await bench.get()
            assert bench.compiles == ["aa"]

    with_bench(tmp_path, use)


def test_lookup_invalid_module_that_is_being_written_is_awaited(tmp_path: Path) -> None:
    """The job is resumed when it is dropped, and finds the new version."""

    async def use(bench: Bench) -> None:
        bench.found = bench.found_later = bench.module("aa")
        bench.is_written = True
        bench.refusals = [RefusedError(Code.INVALID_MODULE, "half a module")]
        work = bench.begin()
        with pytest.raises(ModuleAwaitedError):
            await bench.get()
        assert bench.state is JobState.WAITING
        assert "is not complete yet" in bench.journal.notes["1"]
        assert bench.table.current(work).job.module is None
        bench.found = bench.module("bb", 2)
        bench.lookup.wake(bench.path, "bb")
        assert bench.resumed == ["a/input.json"]
        assert await bench.get() is COMPILED
        assert bench.table.current(work).job.module == bench.found

    with_bench(tmp_path, use)


@pytest.mark.parametrize("is_kept", [True, False])
def test_lookup_evicted_copy_is_compiled_again_if_the_file_is_still_there(
    tmp_path: Path, is_kept: bool
) -> None:
    """Looking for the file makes another copy of it."""

    async def use(bench: Bench) -> None:
        bench.found = bench.module("aa")
        bench.found_later = bench.found if is_kept else None
        bench.refusals = [RefusedError(Code.MODULE_MISSING, "evicted")]
        bench.begin()
        if is_kept:
            assert await bench.get() is COMPILED
            assert bench.compiles == ["aa", "aa"]
        else:
            with pytest.raises(RefusedError, match="evicted"):
                await bench.get()

    with_bench(tmp_path, use)


def test_lookup_remembers_which_version_of_its_own_module_a_slot_ran(tmp_path: Path) -> None:
    """A drop of that version does not rerun the slot. Other modules are not remembered."""

    async def use(bench: Bench) -> None:
        own = PinnedModule("/shared/a/module.wasm", "aa", 1, FileVersion(1, 1, 1, 7))
        bench.in_cache = {"aa", "bb"}
        work = bench.begin()
        for module, is_known in ((bench.module("bb"), False), (own, True)):
            work = bench.table.evolve(work, job=job("1", "a/input.json", module=module))
            assert bench.lookup.in_memory(work, EngineOptions()) is COMPILED
            assert module.version is not None
            assert bench.lookup.has_run(work.job.slot, module.version) is is_known

    with_bench(tmp_path, use)


def test_lookup_rerun_for_a_module_that_the_job_before_found_itself_is_refused(
    tmp_path: Path,
) -> None:
    """That job began with an incomplete version, and looked again; nothing runs twice."""

    async def use(bench: Bench) -> None:
        bench.found, bench.found_later = bench.own_module("aa"), bench.own_module("bb", 2)
        bench.refusals = [RefusedError(Code.INVALID_MODULE, "half a module")]
        bench.begin()
        assert await bench.get(None) is COMPILED
        bench.end_and_rerun()
        with pytest.raises(AlreadyRunError, match="job 1 ran"):
            await bench.get(None)
        assert bench.compiles == ["aa", "bb"]

    with_bench(tmp_path, use)


@pytest.mark.parametrize("other", ["module", "input", "reference", "cause"])
def test_lookup_job_that_may_differ_from_the_one_before_gets_its_module(
    tmp_path: Path, other: str
) -> None:
    """A rerun with another module or input, or with one that it names; and each dropped input."""

    async def use(bench: Bench) -> None:
        bench.found = bench.own_module("aa")
        bench.begin()
        reference = "m" if other == "reference" else None
        assert await bench.get(reference) is COMPILED
        if other == "module":
            bench.found = bench.own_module("aa", 2)
        bench.end_and_rerun("another" if other == "input" else "", is_for_module=other != "cause")
        assert await bench.get(reference) is COMPILED

    with_bench(tmp_path, use)


def test_lookup_rerun_that_waits_for_the_rest_of_its_module_looks_again(tmp_path: Path) -> None:
    """It may find the same version as before, for it has not run it."""

    async def use(bench: Bench) -> None:
        bench.found = bench.own_module("aa")
        bench.begin()
        assert await bench.get(None) is COMPILED
        bench.found = bench.found_later = bench.own_module("bb", 2)
        bench.is_written = True
        bench.refusals = [RefusedError(Code.INVALID_MODULE, "half a module")] * 2
        bench.end_and_rerun()
        for _ in range(2):
            with pytest.raises(ModuleAwaitedError):
                await bench.get(None)
        assert bench.compiles == ["aa", "bb", "bb"]

    with_bench(tmp_path, use)


def test_lookup_job_that_stops_waiting_is_not_resumed(tmp_path: Path) -> None:
    """Neither by its module nor twice; a job that does not wait is left alone."""

    async def use(bench: Bench) -> None:
        bench.begin()
        assert not bench.lookup.stop_waiting(bench.slot_key)
        with pytest.raises(ModuleAwaitedError):
            await bench.get()
        assert bench.lookup.stop_waiting(bench.slot_key)
        assert not bench.lookup.stop_waiting(bench.slot_key)
        bench.lookup.wake(bench.path, None)
        assert bench.resumed == []

    with_bench(tmp_path, use)


def test_lookup_resumed_job_no_longer_waits(tmp_path: Path) -> None:
    """The dispatcher has it in its queue then."""

    async def use(bench: Bench) -> None:
        bench.begin()
        with pytest.raises(ModuleAwaitedError):
            await bench.get()
        bench.lookup.wake(bench.path, None)
        assert bench.resumed == [bench.slot_key]
        assert not bench.lookup.stop_waiting(bench.slot_key)

    with_bench(tmp_path, use)
