"""Check that the daemon would serve the control page, if that is on."""

from typing import Final

from wasmdrop.service.doctor.finding import Finding, ok, problem
from wasmdrop.settings import Settings, Switch

_AREA: Final = "page"
_CHECK: Final = "access"


def examine(settings: Settings) -> list[Finding]:
    """Read the token as the daemon does; there is nothing to check without a page."""
    if settings.page is Switch.OFF:
        return []
    # Only a daemon with a page needs it.
    from wasmdrop.service.page import PageError, load_access  # noqa: PLC0415

    try:
        access = load_access(settings)
    except PageError as error:
        return [problem(_AREA, _CHECK, error.found, error.advice)]
    who = "a token is needed" if access.has_login else "from this host alone, without a token"
    return [ok(_AREA, _CHECK, f"{settings.http}: {who}")]
