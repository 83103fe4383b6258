"""Run the root slot's job once, without a daemon."""

import asyncio
import contextlib
import signal
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from wasmdrop.delivery.delivery import Delivery
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.intake.backlog import Backlog
from wasmdrop.intake.intake import Intake
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.taken_versions import TakenVersions
from wasmdrop.jobs.journal.database import JOURNAL_NAME
from wasmdrop.jobs.journal.writer import Journal
from wasmdrop.jobs.metrics import Metrics
from wasmdrop.protocol.errors import SandboxError, SettingsError, StorageError
from wasmdrop.service.directories import check_directories
from wasmdrop.service.instance_lock import lock_state_directory
from wasmdrop.service.local_sandbox import open_local_sandbox
from wasmdrop.service.pipeline import build_pipeline, new_module_finder
from wasmdrop.service.shutdown import Shutdown
from wasmdrop.service.signing_key import load_signing_key
from wasmdrop.settings import Settings


async def run_once(settings: Settings) -> ResultPackage:
    """Run the root slot's job and return what was delivered.

    Uses the daemon's module cache if no daemon is using it. Raises ``SettingsError`` if the
    directories or the signing key can't be used, ``SandboxError`` if there is no sandbox or a
    signal stopped the job, ``KeyboardInterrupt`` for SIGINT, ``StorageError`` if the journal can't
    be opened.
    """
    check_directories(settings)
    signing_key = load_signing_key(settings)
    shutdown = Shutdown()
    delivered: asyncio.Future[ResultPackage] = asyncio.get_running_loop().create_future()
    with (
        tempfile.TemporaryDirectory(prefix="wasmdrop-") as temporary,
        contextlib.ExitStack() as held,
    ):
        try:
            held.enter_context(lock_state_directory(settings.state_dir))
            state_dir = settings.state_dir
        except (SettingsError, StorageError, OSError):
            state_dir = Path(temporary)
        settings = msgspec.structs.replace(settings, state_dir=state_dir)
        async with open_local_sandbox(settings, 1) as (executor, cache):
            # A daemon's journal may own job directories, which its next start has yet to deliver.
            if not (state_dir / JOURNAL_NAME).exists():
                executor.directories.sweep()
            delivery = held.enter_context(Delivery(str(settings.shared_dir), delivered.set_result))
            layout, backlog = Layout(settings), Backlog(settings.max_queued, settings.workers)
            finder = new_module_finder(settings, layout, cache)
            journal = Journal(Path(temporary) / JOURNAL_NAME)
            taken = TakenVersions(journal.path, journal.fail)
            intake = Intake(settings, layout, taken, backlog, finder.find_known)
            pipeline = build_pipeline(
                *(settings, layout, finder, intake, journal),
                *(executor, delivery, Metrics(), backlog),
                signer=signing_key,
            )
            try:
                found = await asyncio.to_thread(intake.read_now, layout.root_slot)
                if found is not None:
                    pipeline.dispatcher.accept(found)
                else:
                    pipeline.dispatcher.run_without_input(layout.root_slot, owes_result=True)
                stopped = asyncio.create_task(shutdown.asked.wait())
                either: set[asyncio.Future[Any]] = {delivered, stopped}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                stopped.cancel()
            finally:
                await pipeline.close(settings.drain_sec if delivered.done() else 0)
    if not delivered.done() and shutdown.reason == signal.SIGINT.name:
        raise KeyboardInterrupt
    if not delivered.done():
        raise SandboxError("stopped by a signal before the job was finished")
    return delivered.result()
