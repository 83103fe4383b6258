"""Which guest runs the jobs of modules that are called again: the native program or Python."""

from typing import Final

from wasmdrop.sandbox.native_program import find_native_program
from wasmdrop.settings import GuestMode

#: What to do if the native program is missing.
HOW_TO_INSTALL: Final = (
    "install a C compiler and then wasmdrop again (in a checkout: make clean setup)"
)


def guest_in_use(mode: GuestMode) -> GuestMode:
    """Return ``native`` or ``python``; ``python`` too if the setting demands a missing program."""
    if mode is GuestMode.PYTHON or find_native_program() is None:
        return GuestMode.PYTHON
    return GuestMode.NATIVE
