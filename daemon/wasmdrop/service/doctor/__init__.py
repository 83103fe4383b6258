"""The doctor: check whether the daemon can keep its promises on this host and these mounts.

Each check makes the same system calls as the daemon, as the user that runs it, and leaves nothing
behind.
"""

import asyncio

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.service.doctor import (
    container,
    grants,
    guest,
    hook,
    ignored_names,
    kernel,
    limits,
    mounts,
    page,
    retention,
    signing_key,
    state,
)
from wasmdrop.service.doctor.finding import Finding, problem
from wasmdrop.settings import Settings
from wasmdrop.system.extras import FLEET

__all__ = ["examine"]


async def examine(settings: Settings) -> list[Finding]:
    """Run every check and return the findings; a failed check is a finding, too."""
    return [
        *await kernel.examine(settings),
        *await asyncio.to_thread(guest.examine, settings),
        *await asyncio.to_thread(mounts.examine, settings),
        *await asyncio.to_thread(ignored_names.examine, settings),
        *await asyncio.to_thread(retention.examine, settings),
        *await asyncio.to_thread(state.examine, settings),
        *await asyncio.to_thread(grants.examine, settings),
        *await asyncio.to_thread(signing_key.examine, settings),
        *limits.examine(settings),
        *await asyncio.to_thread(page.examine, settings),
        *await asyncio.to_thread(hook.examine, settings),
        *await asyncio.to_thread(container.examine, settings),
        *await _examine_fleet(settings),
    ]


async def _examine_fleet(settings: Settings) -> list[Finding]:
    if not settings.fleet:
        return []
    try:
        with FLEET.required("WASMDROP_FLEET"):
            from wasmdrop.service.doctor import fleet  # noqa: PLC0415 - needs packages of an extra
    except SettingsError as error:
        found, _, advice = str(error).partition("; ")
        return [problem("fleet", "packages", found, advice)]
    return await fleet.examine(settings)
