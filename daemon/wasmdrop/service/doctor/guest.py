"""Check whether the native program is installed, and whether this host can execute it."""

import subprocess
from typing import Final

from wasmdrop.sandbox.native_program import find_native_program
from wasmdrop.service.doctor.finding import Finding, ok, problem, warning
from wasmdrop.service.guest import HOW_TO_INSTALL
from wasmdrop.settings import GuestMode, Settings

_AREA: Final = "guest"
_CHECK: Final = "native program"

#: Of the program without arguments, after it printed its usage.
_USAGE_STATUS: Final = 2


def examine(settings: Settings) -> list[Finding]:
    """Check the native program, if the daemon would use it."""
    if settings.guest is GuestMode.PYTHON:
        return [ok(_AREA, _CHECK, "not used: WASMDROP_GUEST is python")]
    program = find_native_program()
    if program is None and settings.guest is GuestMode.NATIVE:
        found = "it is not installed, and WASMDROP_GUEST is native"
        return [problem(_AREA, _CHECK, found, HOW_TO_INSTALL)]
    if program is None:
        found = "it is not installed: jobs run in the slower Python guest"
        return [warning(_AREA, _CHECK, found, HOW_TO_INSTALL)]
    try:
        ended = subprocess.run([program], capture_output=True, check=False)
        reason = "" if ended.returncode == _USAGE_STATUS else f"status {ended.returncode}"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        found = f"{program} does not run on this host: {reason}"
        advice = f"{HOW_TO_INSTALL}; until then set WASMDROP_GUEST=python"
        return [problem(_AREA, _CHECK, found, advice)]
    return [ok(_AREA, _CHECK, str(program))]
