"""Check whether the limits of top directories leave room for others."""

from typing import Final

from wasmdrop.service.doctor.finding import Finding, ok, warning
from wasmdrop.settings import Settings

_AREA: Final = "limits"
_CHECK: Final = "top directories"


def examine(settings: Settings) -> list[Finding]:
    """Compare the limit of running jobs with the workers; without a limit, check nothing."""
    limit = settings.directory_running
    if limit is None:
        return []
    places = settings.fleet_window if settings.fleet else settings.workers
    found = f"one directory may have {limit} jobs under way, of {places} that run at a time"
    if limit < places:
        return [ok(_AREA, _CHECK, found)]
    advice = f"set WASMDROP_DIRECTORY_RUNNING below {places}, or one directory can delay all others"
    return [warning(_AREA, _CHECK, found, advice)]
