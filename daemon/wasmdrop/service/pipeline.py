"""The pipeline: the objects that take a drop to its results, wired together."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from wasmdrop.delivery.delivery import Delivery
from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.drops import CancelFile, Drop, GoneFile, InputDrop, ModuleDrop
from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.module_finder import ModuleFinder
from wasmdrop.jobs.dispatcher import Dispatcher
from wasmdrop.jobs.executor import Executor
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.jobs.module_lookup import ModuleLookup
from wasmdrop.jobs.module_reruns import ModuleReruns
from wasmdrop.jobs.observer import JobObserver
from wasmdrop.jobs.runner import JobRunner
from wasmdrop.jobs.work_table import WorkTable
from wasmdrop.proof.envelope import Signer
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.settings import Settings

#: Why a job was cancelled.
_REMOVED: Final = "its input was removed before it began"
_CANCEL_FILE: Final = "a cancel file was dropped beside its input"


@dataclass(frozen=True)
class Pipeline:
    """The objects that a daemon, or a single run, uses."""

    intake: Intake
    journal: Journal
    lookup: ModuleLookup
    dispatcher: Dispatcher
    table: WorkTable
    reruns: ModuleReruns

    def take(self, drop: Drop) -> None:
        """Take a drop from intake."""
        if isinstance(drop, InputDrop):
            self.dispatcher.accept(drop)
        elif isinstance(drop, ModuleDrop):
            self.reruns.take(drop)
        elif isinstance(drop, GoneFile):
            if drop.slot_key is not None:
                _ = self.dispatcher.cancel_slot(drop.slot_key, _REMOVED, begun=False)
            self.journal.forget(drop.path)  # after the cancellation, which a crash must not undo
        else:
            if isinstance(drop, CancelFile):
                _ = self.dispatcher.cancel_slot(drop.slot_key, _CANCEL_FILE, begun=True)
            if drop.taken is not None:
                self.journal.remember({drop.path: drop.taken})

    async def close(
        self,
        seconds: float,
        hurry: asyncio.Event | None = None,
        before_journal: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Drain the jobs and close the journal; see :meth:`Dispatcher.drain`.

        ``before_journal`` is called between the two.
        """
        self.lookup.stop()
        self.reruns.stop()
        await self.dispatcher.drain(seconds, hurry)
        await self.reruns.ended()
        self.lookup.close()
        if before_journal is not None:
            await before_journal()
        self.intake.close()  # first: the last reader to leave merges the journal into one file
        await self.journal.close()


def build_pipeline(
    settings: Settings,
    layout: Layout,
    finder: ModuleFinder,
    intake: Intake,
    journal: Journal,
    executor: Executor,
    delivery: Delivery,
    metrics: Metrics,
    backlog: Backlog,
    on_room: Callable[[], None] = lambda: None,
    signer: Signer | None = None,
    observer: JobObserver | None = None,
) -> Pipeline:
    """Build a pipeline; ``on_room``, ``signer`` and ``observer``: see :class:`Dispatcher`."""
    table = WorkTable(journal)
    lookup = ModuleLookup(
        settings, layout, finder.find, intake.is_module_written, executor, journal, table
    )
    runner = JobRunner(settings, table, journal, lookup, executor, metrics)
    dispatcher = Dispatcher(
        *(settings, backlog, table, runner, journal, delivery, metrics), on_room, signer, observer
    )
    reruns = ModuleReruns(layout, intake.read_again, finder.learn, journal, lookup, dispatcher)
    return Pipeline(intake, journal, lookup, dispatcher, table, reruns)


def new_module_finder(settings: Settings, layout: Layout, cache: ModuleCache) -> ModuleFinder:
    """Return a finder that keeps copies of modules in ``cache``."""
    max_bytes = settings.max_module_mb * MEBIBYTE
    return ModuleFinder(layout, max_bytes, cache.ingest, cache.has_module, cache.module_bytes)
