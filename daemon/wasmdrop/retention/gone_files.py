"""Find files that were removed without an event: before the start, while polling, or in a flood.

The journal forgets their versions, and jobs that have not begun are cancelled with their inputs.
"""

import asyncio
import contextlib
import time
from typing import Final

import structlog

from wasmdrop.intake.gone_files import MAX_FOUND, GoneFiles
from wasmdrop.system.mount_threads import MountThreads

_log = structlog.get_logger()

#: How long a check of all files may take, in seconds; one that hangs on a mount is abandoned.
_LONGEST_CHECK_SECONDS: Final = 60.0

#: Pause after a check, as a multiple of its time: a flood of removals must not keep a thread busy.
_PAUSE_RATIO: Final = 4


async def run_checks(
    files: GoneFiles,
    settle_seconds: float,
    period_seconds: float,
    *,
    may_forget: asyncio.Event,
    is_wanted: asyncio.Event,
) -> None:
    """Check all files every ``period_seconds``, and when a check is wanted, until cancelled.

    The first check begins when the daemon ``may_forget`` which versions were taken.
    """
    threads = MountThreads()
    try:
        await may_forget.wait()
        while True:
            is_wanted.clear()
            began = time.monotonic()
            try:
                while await _check(threads, files, settle_seconds):
                    pass
            except TimeoutError:
                pass  # a mount hangs; the next check skips it
            except Exception:  # noqa: BLE001 - jobs do not need it; the next round retries
                _log.exception("retention-failed")
            pause_seconds = min(_PAUSE_RATIO * (time.monotonic() - began), period_seconds)
            await asyncio.sleep(pause_seconds)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period_seconds - pause_seconds):
                    await is_wanted.wait()
    finally:
        threads.close()


async def _check(threads: MountThreads, files: GoneFiles, settle_seconds: float) -> bool:
    """Check all files; return whether more of them may be gone."""
    # On one thread for all mounts: the check itself skips those at which it hangs.
    found = await threads.run("/", files.find, wait_seconds=_LONGEST_CHECK_SECONDS)
    if found:
        await asyncio.sleep(settle_seconds)
        await threads.run("/", files.forget, found, wait_seconds=_LONGEST_CHECK_SECONDS)
    return len(found) >= MAX_FOUND
