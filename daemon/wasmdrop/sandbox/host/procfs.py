"""Kinship: whose child a process is and what it used, as the kernel knows it (proc(5)).

For processes that a guest may own, whose own word for it is worth nothing.
"""

import os
from pathlib import Path
from typing import Final

__all__ = ["children_of", "is_child_of", "processor_seconds"]

_TICKS: Final = os.sysconf("SC_CLK_TCK")

#: Fields of a process's status, counted from the one after its name.
_PARENT: Final = 1
_USER_TICKS: Final = 11
_SYSTEM_TICKS: Final = 12


def is_child_of(pidfd: int, parent_pid: int) -> bool:
    """Whether a descriptor is of a living child of that process."""
    try:
        told = Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii")
        pid = int(told.partition("\nPid:")[2].split(maxsplit=1)[0])
        return int(_status(pid)[_PARENT]) == parent_pid
    except (OSError, IndexError, ValueError):
        return False


def children_of(pid: int) -> set[int]:
    """Return the children of a process; none where it is gone, or the kernel keeps no lists."""
    found: set[int] = set()
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found.update(map(int, (task / "children").read_text(encoding="ascii").split()))
    except OSError:
        pass
    return found


def processor_seconds(pid: int) -> float:
    """Return what a process has used itself; nothing where it is gone."""
    try:
        status = _status(pid)
    except OSError:
        return 0.0
    return (int(status[_USER_TICKS]) + int(status[_SYSTEM_TICKS])) / _TICKS


def _status(pid: int) -> list[bytes]:
    # The name, in parentheses, may hold anything.
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
