"""Run all checks, in the order of the report."""

import asyncio

from wasmdrop.service.doctor import container, grants, ignored_names, kernel, mounts, state
from wasmdrop.service.doctor.finding import Finding
from wasmdrop.settings import Settings

__all__ = ["examine"]


async def examine(settings: Settings) -> list[Finding]:
    """Run every check and return the findings; a failed check is a finding, too."""
    return [
        *await kernel.examine(settings),
        *await asyncio.to_thread(mounts.examine, settings),
        *await asyncio.to_thread(ignored_names.examine, settings),
        *await asyncio.to_thread(state.examine, settings),
        *await asyncio.to_thread(grants.examine, settings),
        *await asyncio.to_thread(container.examine, settings),
    ]
