"""What the kernel knows of a process: its parent, its children, its processor time (proc(5)).

Used for processes that a guest may own, whose own statements cannot be trusted.
"""

import os
from pathlib import Path
from typing import Final

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")

#: Fields of ``/proc/PID/stat``, counted from the one after the name.
_PARENT: Final = 1
_USER_TICKS: Final = 11
_SYSTEM_TICKS: Final = 12


def is_child_of(pidfd: int, parent_pid: int) -> bool:
    """Whether a pidfd refers to a living child of that process."""
    try:
        info = Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii")
        pid = int(info.partition("\nPid:")[2].split(maxsplit=1)[0])
        return int(_stat(pid)[_PARENT]) == parent_pid
    except (OSError, IndexError, ValueError):
        return False


def children_of(pid: int) -> set[int]:
    """Return the children of a process; empty if it is gone, or the kernel has no such lists."""
    found: set[int] = set()
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found.update(map(int, (task / "children").read_text(encoding="ascii").split()))
    except OSError:
        pass
    return found


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process without its children; 0 if it is gone."""
    try:
        stat = _stat(pid)
    except OSError:
        return 0.0
    return (int(stat[_USER_TICKS]) + int(stat[_SYSTEM_TICKS])) / _TICKS_PER_SECOND


def _stat(pid: int) -> list[bytes]:
    # The name, in parentheses, may contain anything.
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
