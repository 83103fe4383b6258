"""Retention of inputs and results: starts the parts that the settings turn on.

Moving inputs and removing slots are imported only if they are on.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.jobs.dispatcher import Dispatcher
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.service.inbox import Inbox
from wasmdrop.settings import AfterMode, Settings


class FileRetention:
    """Moves inputs that are done, and removes old slots; used from the event loop.

    Does nothing with the default settings.
    """

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        intake: Intake,
        journal: Journal,
        dispatcher: Dispatcher,
        inbox: Inbox,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._parts = (layout, intake, journal)
        self._dispatcher = dispatcher
        self._inbox = inbox
        self._metrics = metrics
        self.has_recovered = asyncio.Event()
        """Set when versions of files that are gone may be forgotten."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work for the duration of a block."""
        settings = self._settings
        moves = settings.after is not AfterMode.KEEP
        if not moves:
            self.has_recovered.set()
        if not moves and settings.keep_results_days is None:
            yield
            return
        from wasmdrop.retention.quiet_slots import QuietSlots  # noqa: PLC0415
        from wasmdrop.retention.steps import Steps  # noqa: PLC0415

        layout, intake, journal = self._parts
        quiet_slots = QuietSlots(intake, self._dispatcher, journal, self._inbox.emptied)
        steps = Steps()
        loops: list[Coroutine[Any, Any, None]] = []
        if moves:
            from wasmdrop.retention.finished_inputs import FinishedInputs  # noqa: PLC0415

            inputs = FinishedInputs(
                *(settings, layout, intake, journal, quiet_slots, steps, self._metrics),
                self.has_recovered,
            )
            self._dispatcher.on_delivered = inputs.note
            loops.append(inputs.run(settings.rescan_sec))
        if settings.keep_results_days is not None:
            from wasmdrop.retention.finished_slots import FinishedSlots  # noqa: PLC0415

            slots = FinishedSlots(
                settings, layout, intake, journal, quiet_slots, steps, self._metrics
            )
            loops.append(slots.run())
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            steps.close()
