"""The native program: where the executable of the native zygote is, if it was built."""

import os
from pathlib import Path
from typing import Final

_PROGRAM: Final = Path(__file__).parent / "guest" / "native" / "zygote"


def find_native_program() -> Path | None:
    """Return the program's path; None if the package was installed without it."""
    return _PROGRAM if _PROGRAM.is_file() and os.access(_PROGRAM, os.X_OK) else None
