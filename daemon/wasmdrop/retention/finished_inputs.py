"""Archive or remove inputs that are done (``WASMDROP_AFTER``).

An input is done when the results of its job are in place, durably, and nothing would run it again.
It stays where it is if its job is rerun when the module changes, if it is behind a link, if the
daemon could not read it, and if its job has left the journal.

Finished jobs are noted one by one. A sweep finds inputs that were missed: before a start, or after
an error.
"""

import asyncio
import itertools
import os
from collections import deque
from functools import partial
from typing import Final

import msgspec
import structlog

from wasmdrop.intake.file_versions import digest_of, with_digest
from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.jobs.job import Job, JobState
from wasmdrop.jobs.journal import awaited_modules
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.protocol.outcome import Status
from wasmdrop.protocol.slot import Slot
from wasmdrop.retention.failures import RetentionFailures
from wasmdrop.retention.quiet_slots import QuietSlots
from wasmdrop.retention.steps import Steps
from wasmdrop.retention.withdrawal import DONE, FAILED, FinishedInput, InputDirectory
from wasmdrop.settings import AfterMode, Settings

_log = structlog.get_logger()

#: Inputs that one step moves: they share the syncs of their directory.
_AT_ONCE: Final = 64

#: Most finished jobs that wait to have their inputs moved; a sweep finds the others.
_MAX_NOTED: Final = 10_000

#: How long to wait for a thread of intake that looks at an input, in seconds.
_BUSY_SECONDS: Final = 0.5

#: The least time between two sweeps, as a multiple of the time that one takes.
_REST_RATIO: Final = 100


class _Moved(msgspec.Struct, frozen=True):
    """The inputs that one step moved, and the first error."""

    inputs: list[FinishedInput]
    error: OSError | None


class FinishedInputs:
    """Moves inputs that are done; used from one event loop.

    ``has_recovered`` is set when moves that an earlier daemon began are completed or undone. Until
    then, no version of a file that is gone may be forgotten.
    """

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        intake: Intake,
        journal: Journal,
        quiet_slots: QuietSlots,
        steps: Steps,
        metrics: Metrics,
        has_recovered: asyncio.Event,
    ) -> None:
        self._mode = settings.after
        self._ready_suffix = settings.ready_suffix
        self._layout = layout
        self._intake = intake
        self._journal = journal
        self._quiet_slots = quiet_slots
        self._steps = steps
        self._metrics = metrics
        self._failures = RetentionFailures("input-withdrawal-failed", metrics)
        self._noted: deque[Slot] = deque()
        self._has_noted = asyncio.Event()
        self._sweep_at = 0.0
        self._has_recovered = has_recovered

    def note(self, job: Job) -> None:
        """Note a job whose results are in place, durably."""
        self._note(job.slot)

    def _note(self, slot: Slot) -> None:
        if len(self._noted) < _MAX_NOTED:
            self._noted.append(slot)
        else:
            self._sweep_at = 0.0
        self._has_noted.set()

    async def run(self, period_seconds: float) -> None:
        """Move inputs of noted jobs soon, and sweep every ``period_seconds``, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                if loop.time() >= self._sweep_at:
                    began = loop.time()
                    self._sweep_at = began + period_seconds
                    await self._sweep()
                    rest_seconds = _REST_RATIO * (loop.time() - began)
                    self._sweep_at = max(self._sweep_at, loop.time() + rest_seconds)
                await self._move_noted()
            except Exception:  # noqa: BLE001 - jobs do not need it; the next sweep retries
                _log.exception("retention-failed")
            self._has_recovered.set()
            wait = asyncio.ensure_future(self._has_noted.wait())
            await asyncio.wait([wait], timeout=max(0.0, self._sweep_at - loop.time()))
            wait.cancel()

    async def _move_noted(self) -> None:
        self._has_noted.clear()
        while self._noted:
            slots = [self._noted.popleft() for _ in range(min(_AT_ONCE, len(self._noted)))]
            await self._move_all(slots, is_recovering=False)

    async def _sweep(self) -> None:
        """Move all inputs that are done; at first, recover moves that were not completed."""
        is_recovering = not self._has_recovered.is_set()
        before = self._metrics.inputs_archived, self._metrics.inputs_removed
        pages = self._intake.taken_pages()
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            slots = [slot for path, _taken in page if (slot := self._layout.slot_of(path))]
            for start in range(0, len(slots), _AT_ONCE):
                some = slots[start : start + _AT_ONCE]
                jobs = await self._journal.latest_jobs([slot.key for slot in some])
                due = [slot for slot in some if slot.key in jobs and _is_due(jobs[slot.key])]
                await self._move_all(due, is_recovering=is_recovering)
                await self._move_noted()
        archived = self._metrics.inputs_archived - before[0]
        removed = self._metrics.inputs_removed - before[1]
        if archived or removed:
            _log.info("inputs-withdrawn", archived=archived, removed=removed)

    async def _move_all(self, slots: list[Slot], *, is_recovering: bool) -> None:
        by_path = {slot.input_path: slot for slot in slots}
        for directory, paths in itertools.groupby(sorted(by_path), os.path.dirname):
            some = [by_path[path] for path in paths]
            move = partial(self._move, directory, some, is_recovering)
            if not await self._steps.do(directory, move):
                self._failures.note_hanging(directory)

    async def _move(self, directory: str, slots: list[Slot], is_recovering: bool) -> None:
        """Move those inputs in ``directory`` whose slots are not in use."""
        async with self._quiet_slots.quiet(slots) as quiet:
            for slot in quiet.busy:
                asyncio.get_running_loop().call_later(_BUSY_SECONDS, self._note, slot)
            jobs = await self._journal.latest_jobs([slot.key for slot in quiet.slots])
            inputs = [
                one
                for slot in quiet.slots
                if slot.key in jobs
                and (one := self._finished_input(slot.input_path, jobs[slot.key])) is not None
            ]
            if not inputs:
                return
            moved = await self._steps.on_mount(
                directory, self._withdraw, directory, inputs, is_recovering
            )
            quiet.gone.update(one.path for one in moved.inputs)
        archived = sum(one.archive is not None for one in moved.inputs)
        self._metrics.inputs_archived += archived
        self._metrics.inputs_removed += len(moved.inputs) - archived
        if moved.error is not None:
            self._failures.note(directory, moved.error)

    def _finished_input(self, path: str, job: Job) -> FinishedInput | None:
        """Return the input to move; None if it is not done, or another version was taken last."""
        taken = self._intake.taken_version(path)
        if taken is None or job.code is None or not _is_due(job):
            return None
        if job.slot.input_path != path:
            return None  # of an earlier place of the shared directory
        sha256 = job.input.sha256 if job.input is not None else None
        if sha256 is None or digest_of(taken) != digest_of(with_digest(b"", bytes.fromhex(sha256))):
            return None
        has_failed = job.code.status is Status.FAILED
        archive: str | None = FAILED if has_failed else DONE
        if self._mode is AfterMode.REMOVE and not has_failed:
            archive = None
        return FinishedInput(path, job.id, taken, archive)

    def _withdraw(self, directory: str, inputs: list[FinishedInput], is_recovering: bool) -> _Moved:
        """Move inputs, durably. Blocks."""
        moved: list[FinishedInput] = []
        first: OSError | None = None
        try:
            with InputDirectory(self._layout.rooted(directory), self._ready_suffix) as opened:
                for one in inputs:
                    try:
                        if (is_recovering and opened.recover(one)) or opened.withdraw(one):
                            moved.append(one)
                    except OSError as error:
                        first = first or error
                if moved:
                    opened.sync()
        except (FileNotFoundError, NotADirectoryError):
            return _Moved([], None)  # the directory is gone
        except OSError as error:
            return _Moved([], error)
        return _Moved(moved, first)


def _is_due(job: Job) -> bool:
    """Whether nothing will run the input of ``job`` again."""
    is_awaiting_module = awaited_modules.key_of(job) is not None
    return job.state is JobState.DELIVERED and job.input is not None and not is_awaiting_module
