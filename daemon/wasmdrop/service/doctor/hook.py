"""Check that the daemon would accept the completion hook, if there is one. Nothing is sent."""

from typing import Final

from wasmdrop.service.doctor.finding import Finding, ok, problem, warning
from wasmdrop.settings import Settings

_AREA: Final = "hook"


def examine(settings: Settings) -> list[Finding]:
    """Load the hook as the daemon does; there is nothing to check without one."""
    if settings.on_finished is None:
        return []
    # Only a daemon with a hook needs it.
    from wasmdrop.service.hooks import (  # noqa: PLC0415
        HookSettingsError,
        describe_hook,
        load_hook,
        why_readable,
    )

    try:
        load_hook(settings)
    except HookSettingsError as error:
        return [problem(_AREA, "target", error.found, error.advice)]
    findings = [ok(_AREA, "target", describe_hook(settings))]
    if (risk := why_readable(settings)) is not None:
        findings.append(warning(_AREA, "hook encryption", risk, "use a URL with https"))
    if isinstance(settings.on_finished, str) and settings.on_finished_secret_file is None:
        advice = "set WASMDROP_ON_FINISHED_SECRET_FILE, unless the receiver knows the daemon"
        findings.append(warning(_AREA, "hook signature", "requests are not signed", advice))
    return findings
