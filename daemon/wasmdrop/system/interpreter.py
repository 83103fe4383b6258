"""The interpreter, for processes of the daemon's that load nothing but what they need."""

import sys
from pathlib import Path
from typing import Final

import wasmdrop

__all__ = ["command_for"]

#: Where this package was imported from, be it by a hook that a new process does not have.
_PACKAGE_PARENT: Final = str(Path(wasmdrop.__file__).parent.parent)


def command_for(module: str, *arguments: object) -> list[str]:
    """Return the command line of a process that calls ``main`` of a module with these arguments.

    -I and -S: nothing of the daemon's environment counts, and no more is imported than it asks for.
    """
    paths = [*sys.path, _PACKAGE_PARENT]
    program = (
        f"import sys; sys.path[:] = {paths!r}; from {module} import main; main(*{arguments!r})"
    )
    return [sys.executable, "-I", "-S", "-c", program]
