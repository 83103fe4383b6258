"""Which inputs are done: the version that the slot's latest job ran, if nothing runs it again."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import pytest
from structlog.testing import capture_logs

from wasmdrop import settings
from wasmdrop.intake.file_versions import pack, pack_unreadable, with_digest
from wasmdrop.intake.layout import Layout
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import FileVersion, InputFile, PinnedModule, Slot
from wasmdrop.retention.finished_inputs import FinishedInputs
from wasmdrop.retention.quiet_slots import Quiet
from wasmdrop.retention.steps import Steps

DATA: Final = b'{"entry":"fib"}'
JOB: Final = "20260101T000000Z-0123456789"


class Bench:
    """One finished job and its input, on stand-ins for intake, journal and quiet slots."""

    def __init__(self, base: Path, after: str) -> None:
        self.shared = base / "shared"
        self.shared.mkdir()
        places = {
            "WASMDROP_WASM_DIR": str(base / "wasm"),
            "WASMDROP_SHARED_DIR": str(self.shared),
            "WASMDROP_STATE_DIR": str(base / "state"),
            "WASMDROP_AFTER": after,
        }
        self.settings = settings.load(places, {}).settings
        self.path = self.shared / "input-a.json"
        self.path.write_bytes(DATA)
        sha256 = hashlib.sha256(DATA)
        self.taken = with_digest(pack(FileVersion.of(self.path.stat())), sha256.digest())
        slot = Slot("input-a.json", str(self.path), str(self.shared), "result-a")
        given = InputFile(str(self.path), sha256.hexdigest(), len(DATA))
        self.job = Job(JOB, slot, 1, JobState.DELIVERED, input=given, code=Code.OK)
        self.is_busy = False
        self.metrics = Metrics()
        self.gone: set[str] = set()
        self.has_recovered = asyncio.Event()

    def taken_pages(self) -> Iterator[list[tuple[str, bytes]]]:
        """As :meth:`Intake.taken_pages`."""
        yield [(str(self.path), self.taken), (str(self.shared / "module.wasm"), b"")]

    def taken_version(self, path: str) -> bytes | None:
        """As :meth:`Intake.taken_version`."""
        return self.taken if path == str(self.path) else None

    async def latest_jobs(self, keys: Sequence[str]) -> dict[str, Job]:
        """As :meth:`Journal.latest_jobs`."""
        return {key: self.job for key in keys if key == self.job.slot.key}

    @contextlib.asynccontextmanager
    async def quiet(self, slots: Sequence[Slot]) -> AsyncIterator[Quiet]:
        """As :meth:`QuietSlots.quiet`."""
        is_busy, self.is_busy = self.is_busy, False
        quiet = Quiet([], list(slots)) if is_busy else Quiet(list(slots), [])
        yield quiet
        self.gone |= quiet.gone

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[FinishedInputs]:
        """Run until the first sweep has ended, and for the duration of a block."""
        own, steps = cast("Any", self), Steps()
        inputs = FinishedInputs(
            *(self.settings, Layout(self.settings), own, own, own, steps, self.metrics),
            self.has_recovered,
        )
        running = asyncio.create_task(inputs.run(3600.0))
        await self.has_recovered.wait()
        yield inputs
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        steps.close()

    async def sweep(self) -> None:
        """Sweep once."""
        async with self._running():
            pass

    async def note(self) -> None:
        """Note the job after the first sweep, and wait until its input is gone."""
        job, self.job = self.job, msgspec.structs.replace(self.job, state=JobState.EXECUTED)
        async with self._running() as inputs:
            assert self.path.exists()
            self.job = job
            inputs.note(job)
            async with asyncio.timeout(60):
                while not self.gone:  # noqa: ASYNC110 - threads make progress
                    await asyncio.sleep(0.001)

    def names(self) -> set[str]:
        """Return the files in the shared directory."""
        found = (path for path in self.shared.rglob("*") if path.is_file())
        return {str(path.relative_to(self.shared)) for path in found}


@pytest.mark.parametrize(
    ("after", "code", "expected"),
    [
        ("archive", Code.OK, f"done/{JOB}-input-a.json"),
        ("archive", Code.TRAP, f"failed/{JOB}-input-a.json"),
        ("archive", Code.CANCELLED, f"failed/{JOB}-input-a.json"),
        ("remove", Code.OK, None),
        ("remove", Code.TRAP, f"failed/{JOB}-input-a.json"),
        ("remove", Code.QUEUE_LIMIT, f"failed/{JOB}-input-a.json"),
    ],
)
def test_sweep_moves_an_input_that_is_done(
    tmp_path: Path, after: str, code: Code, expected: str | None
) -> None:
    """By the code of its job. The input of a failed job may be the only copy."""
    bench = Bench(tmp_path, after)
    bench.job = msgspec.structs.replace(bench.job, code=code)
    with capture_logs() as logs:
        asyncio.run(bench.sweep())
    assert bench.names() == ({expected} if expected else set())
    assert bench.gone == {str(bench.path)}
    archived = int(expected is not None)
    assert (bench.metrics.inputs_archived, bench.metrics.inputs_removed) == (archived, 1 - archived)
    assert [line["event"] for line in logs] == ["inputs-withdrawn"]


def test_sweep_moves_the_input_of_a_job_that_no_module_reruns(tmp_path: Path) -> None:
    """Another module of the same digest is the same module."""
    bench = Bench(tmp_path, "archive")
    bench.job = msgspec.structs.replace(
        bench.job,
        code=Code.ENTRY_NOT_FOUND,
        module_reference="sha256:" + "0" * 64,
        module=PinnedModule("m.wasm", "0" * 64, 1),
    )
    asyncio.run(bench.sweep())
    assert bench.names() == {f"failed/{JOB}-input-a.json"}


@pytest.mark.parametrize("code", [code for code in Code if code.of_the_module])
def test_sweep_leaves_an_input_that_a_module_reruns(tmp_path: Path, code: Code) -> None:
    """The protocol promises it."""
    bench = Bench(tmp_path, "archive")
    bench.job = msgspec.structs.replace(bench.job, code=code)
    asyncio.run(bench.sweep())
    assert bench.names() == {"input-a.json"}


@pytest.mark.parametrize(
    "case", ["job-open", "job-of-another-input", "job-of-another-place", "unreadable", "no-journal"]
)
def test_sweep_leaves_an_input_that_is_not_done(tmp_path: Path, case: str) -> None:
    """The version that is there is not known to have run."""
    bench = Bench(tmp_path, "remove")
    job = bench.job
    if case == "job-open":
        job = msgspec.structs.replace(job, state=JobState.EXECUTED)
    elif case == "job-of-another-input":
        other = InputFile(str(bench.path), hashlib.sha256(b"other").hexdigest(), len(DATA))
        job = msgspec.structs.replace(job, input=other)
    elif case == "job-of-another-place":
        place = msgspec.structs.replace(job.slot, input_path="/elsewhere/input-a.json")
        job = msgspec.structs.replace(job, slot=place)
    elif case == "no-journal":
        job = msgspec.structs.replace(job, slot=msgspec.structs.replace(job.slot, key="other"))
    else:
        status = bench.path.stat()
        bench.taken = with_digest(pack_unreadable(status), hashlib.sha256(DATA).digest())
    bench.job = job
    asyncio.run(bench.sweep())
    assert bench.names() == {"input-a.json"}
    assert bench.gone == set()


@pytest.mark.parametrize("is_busy", [False, True])
def test_noted_job_has_its_input_moved(tmp_path: Path, is_busy: bool) -> None:
    """Soon, also if a thread of intake looks at the input just then."""
    bench = Bench(tmp_path, "archive")
    bench.is_busy = is_busy
    asyncio.run(bench.note())
    assert bench.names() == {f"done/{JOB}-input-a.json"}
