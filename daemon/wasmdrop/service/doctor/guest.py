"""Check whether the native program is installed, and whether it works on this host."""

from typing import Final

from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.native_start import why_unusable
from wasmdrop.sandbox.native_program import find_native_program
from wasmdrop.service.doctor.finding import Finding, ok, problem, warning
from wasmdrop.service.guest import HOW_TO_INSTALL, usable_native_program
from wasmdrop.settings import GuestMode, Settings

_AREA: Final = "guest"
_CHECK: Final = "native program"


def examine(settings: Settings) -> list[Finding]:
    """Check whether the native program is installed, if the daemon would use it."""
    if settings.guest is GuestMode.PYTHON:
        return [ok(_AREA, _CHECK, "not used: WASMDROP_GUEST is python")]
    program = find_native_program()
    if program is None and settings.guest is GuestMode.NATIVE:
        found = "it is not installed, and WASMDROP_GUEST is native"
        return [problem(_AREA, _CHECK, found, HOW_TO_INSTALL)]
    if program is None:
        found = "it is not installed: jobs run in the slower Python guest"
        return [warning(_AREA, _CHECK, found, HOW_TO_INSTALL)]
    return []


async def try_program(settings: Settings, fork_server: ForkServer) -> list[Finding]:
    """Have a child execute the native program, if the daemon would use it."""
    program = usable_native_program(settings.guest)
    if program is None:
        return []
    if reason := await why_unusable(fork_server):
        found = f"{program} does not work on this host: {reason}"
        advice = f"{HOW_TO_INSTALL}; until then set WASMDROP_GUEST=python"
        return [problem(_AREA, _CHECK, found, advice)]
    return [ok(_AREA, _CHECK, str(program))]
