"""Which guest runs the jobs of modules that are called again: the native program or Python."""

from pathlib import Path
from typing import Final

from wasmdrop.sandbox.native_program import find_native_program
from wasmdrop.settings import GuestMode

#: What to do if the native program is missing.
HOW_TO_INSTALL: Final = (
    "install a C compiler and then wasmdrop again (in a checkout: make clean setup)"
)


def usable_native_program(mode: GuestMode) -> Path | None:
    """Return the path of the native program; None if it is missing or the setting forbids it."""
    return None if mode is GuestMode.PYTHON else find_native_program()


def guest_in_use(mode: GuestMode) -> GuestMode:
    """Return ``native`` or ``python``; ``python`` too if the setting demands a missing program."""
    return GuestMode.PYTHON if usable_native_program(mode) is None else GuestMode.NATIVE
