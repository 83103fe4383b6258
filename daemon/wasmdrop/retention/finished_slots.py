"""Remove slots that were finished long ago (``WASMDROP_KEEP_RESULTS_DAYS``).

A sweep walks through the shared directory in small steps. It looks at markers, at removals that an
earlier daemon did not complete, and at inputs in ``done/`` and ``failed/``. A slot with an open job
or an unread drop stays, and so does one whose marker is not the daemon's own or not true.
"""

import asyncio
import os
import re
import stat
from collections.abc import Iterator
from functools import partial
from typing import Final

import msgspec
import structlog

from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.tree_walk import EntryBatch, walk
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.protocol.slot import MARKER_SUFFIX, Slot
from wasmdrop.retention.failures import RetentionFailures
from wasmdrop.retention.quiet_slots import QuietSlots
from wasmdrop.retention.slot_removal import OldSlot, RemovedSlot, SlotDirectory
from wasmdrop.retention.steady_clock import SteadyClock
from wasmdrop.retention.steps import Steps
from wasmdrop.retention.withdrawal import DONE, FAILED, REMOVING_PREFIX
from wasmdrop.settings import Settings

_log = structlog.get_logger()

_DAY_SECONDS: Final = 86_400.0
_DAY_NS: Final = 86_400 * 1_000_000_000

#: Longest time between sweeps, in seconds, and the part of the results' age that it is at most.
_LONGEST_PERIOD_SECONDS: Final = 3600.0
_PERIOD_RATIO: Final = 0.1

#: Slots that one step removes: they share the syncs of their directory.
_AT_ONCE: Final = 32

#: An input in an archive, by its name: the id of a job, and the input's own name.
_ARCHIVED: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{10}-.")

_STEM: Final = "result"


class _Found(msgspec.Struct, frozen=True):
    """One batch of the entries of a directory."""

    directory: str
    inputs: list[str]
    """Paths of inputs whose slots may be old, or are half removed."""
    removed: int
    """Archived inputs that were removed."""
    error: OSError | None


class FinishedSlots:
    """Removes old slots; used from one event loop. Only with ``keep_results_days``."""

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        intake: Intake,
        journal: Journal,
        quiet_slots: QuietSlots,
        steps: Steps,
        metrics: Metrics,
    ) -> None:
        days = settings.keep_results_days
        assert days is not None  # noqa: S101 - the caller's condition
        self._keep_ns = int(days * _DAY_NS)
        self._period_seconds = min(_LONGEST_PERIOD_SECONDS, _PERIOD_RATIO * days * _DAY_SECONDS)
        # Names in done/ and failed/ of the deepest slots are one level deeper.
        self._max_depth = settings.max_depth + 1
        self._ready_suffix = settings.ready_suffix
        self._layout = layout
        self._intake = intake
        self._journal = journal
        self._quiet_slots = quiet_slots
        self._steps = steps
        self._metrics = metrics
        self._failures = RetentionFailures("slot-removal-failed", metrics)
        self._clock = SteadyClock(self._period_seconds)

    async def run(self) -> None:
        """Sweep periodically until cancelled.

        The first sweep only completes removals: the clock has to be steady for a period.
        """
        while True:
            try:
                await self._sweep(self._clock.now_ns() - self._keep_ns)
            except Exception:  # noqa: BLE001 - jobs do not need it; the next sweep retries
                _log.exception("retention-failed")
            await asyncio.sleep(self._period_seconds)

    async def _sweep(self, before_ns: int) -> None:
        """Remove slots that finished before that time."""
        before = self._metrics.slots_removed, self._metrics.inputs_removed
        layout = self._layout
        root = layout.root_slot
        if not self._is_beside_input(root):
            await self._remove_all(root.directory, [root], before_ns)
        tops = [layout.shared_dir]
        while tops:
            await self._sweep_tree(tops.pop(), tops, before_ns)
        slots = self._metrics.slots_removed - before[0]
        inputs = self._metrics.inputs_removed - before[1]
        if slots or inputs:
            _log.info("slots-removed", slots=slots, inputs=inputs)

    async def _sweep_tree(self, top: str, mounts: list[str], before_ns: int) -> None:
        """Sweep one mount; add those below it to ``mounts``."""
        rooted = self._layout.rooted(top)
        batches = walk(rooted, self._max_depth - rooted.depth, _never, _ignore, mounts.append)
        while True:
            found: list[_Found | None] = []
            look = partial(self._look, top, batches, before_ns, found)
            if not await self._steps.do(top, look):
                self._failures.note_hanging(top)
                return
            one = found[0]
            if one is None:
                return
            self._metrics.inputs_removed += one.removed
            if one.error is not None:
                self._failures.note(one.directory, one.error)
            slots = [slot for path in one.inputs if (slot := self._layout.slot_of(path))]
            slots = [slot for slot in slots if self._is_beside_input(slot)]
            await self._remove_all(one.directory, slots, before_ns)

    @staticmethod
    def _is_beside_input(slot: Slot) -> bool:
        return slot.directory == os.path.dirname(slot.input_path)  # noqa: PTH120 - any bytes

    async def _look(
        self, top: str, batches: Iterator[EntryBatch], before_ns: int, found: list[_Found | None]
    ) -> None:
        found.append(await self._steps.on_mount(top, _next, batches, before_ns))

    async def _remove_all(self, directory: str, slots: list[Slot], before_ns: int) -> None:
        for start in range(0, len(slots), _AT_ONCE):
            some = slots[start : start + _AT_ONCE]
            if not await self._steps.do(
                directory, partial(self._remove, directory, some, before_ns)
            ):
                self._failures.note_hanging(directory)
                return

    async def _remove(self, directory: str, slots: list[Slot], before_ns: int) -> None:
        """Remove those slots with results in ``directory`` that are old and not in use."""
        async with self._quiet_slots.quiet(slots) as quiet:
            last = await self._journal.latest_jobs([slot.key for slot in quiet.slots])
            old = [
                OldSlot(
                    slot,
                    self._intake.taken_version(slot.input_path),
                    last[slot.key].id if slot.key in last else None,
                )
                for slot in quiet.slots
            ]
            if not old:
                return
            removed, error = await self._steps.on_mount(
                directory, self._remove_files, directory, old, before_ns
            )
            quiet.gone.update(one.input_path for one in removed)
        self._metrics.slots_removed += len(removed)
        self._metrics.inputs_removed += sum(one.had_input for one in removed)
        if error is not None:
            self._failures.note(directory, error)

    def _remove_files(
        self, directory: str, slots: list[OldSlot], before_ns: int
    ) -> tuple[list[RemovedSlot], OSError | None]:
        """Remove slots, durably; return them and the first error. Blocks."""
        first: OSError | None = None
        inputs = os.path.dirname(slots[0].slot.input_path)  # noqa: PTH120 - may hold any bytes
        rooted = self._layout.rooted
        try:
            with SlotDirectory(
                rooted(directory), rooted(inputs), self._ready_suffix, before_ns
            ) as opened:
                for old in slots:
                    try:
                        opened.resume(old)
                        opened.begin(old)
                    except OSError as error:
                        first = first or error
                removed, failure = opened.complete()
                return removed, first or failure
        except (FileNotFoundError, NotADirectoryError):
            return [], first  # the directory is gone
        except OSError as error:
            return [], error


def _next(batches: Iterator[EntryBatch], before_ns: int) -> _Found | None:
    """Look at the next entries, and remove old inputs from an archive; None at the end. Blocks."""
    batch = next(batches, None)
    if batch is None:
        return None
    inputs = []
    for name, status in batch.statuses(_may_be_marker):
        stem = name.removeprefix(REMOVING_PREFIX).removesuffix(MARKER_SUFFIX)
        is_half_removed = name.startswith(REMOVING_PREFIX)
        if status.st_uid == os.geteuid() and (is_half_removed or _is_old(status, before_ns)):
            inputs.append(f"{batch.path}/input{stem.removeprefix(_STEM)}.json")
    removed, first = 0, None
    if os.path.basename(batch.path) in {DONE, FAILED}:  # noqa: PTH119 - may hold any bytes
        for name, status in batch.statuses(_is_archived):
            if stat.S_ISREG(status.st_mode) and _is_old(status, before_ns):
                try:
                    os.unlink(name, dir_fd=batch.fd)
                    removed += 1
                except FileNotFoundError:
                    pass
                except OSError as error:
                    first = first or error
    return _Found(batch.path, list(dict.fromkeys(inputs)), removed, first)


def _may_be_marker(name: str) -> bool:
    return name.endswith(MARKER_SUFFIX) and name.removeprefix(REMOVING_PREFIX).startswith(_STEM)


def _is_archived(name: str) -> bool:
    return _ARCHIVED.match(name) is not None


def _is_old(status: os.stat_result, before_ns: int) -> bool:
    """Whether a file was written, and renamed or linked, before that time."""
    return max(status.st_mtime_ns, status.st_ctime_ns) < before_ns


def _never(_path: str) -> bool:
    return False


def _ignore(_path: str, _fd: int) -> None:
    pass
