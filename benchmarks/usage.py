"""Memory and processor time of processes, from /proc.

proc_pid_stat(5), proc_pid_smaps(5), proc_pid_status(5).
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """Memory and processor time of one process so far."""

    pid: int
    parent: int
    pss_mb: float
    """Its memory, pages that others share divided among them (proc_pid_smaps(5)), in MiB."""
    cpu_seconds: float
    """Of all its threads, as the scheduler counts it."""


def processes(pid: int, parent: int = 0) -> list[Process]:
    """Return a process and all its descendants."""
    directory = Path(f"/proc/{pid}")
    rollup = (directory / "smaps_rollup").read_text(encoding="ascii")
    (pss_kb,) = (int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    cpu_ns, below = 0, []
    for task in (directory / "task").iterdir():
        cpu_ns += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        below += (task / "children").read_text(encoding="ascii").split()
    found = [Process(pid, parent, pss_kb / 1024, cpu_ns / 1e9)]
    return found + [each for child in below for each in processes(int(child), pid)]


def cpu_seconds_with_ended(pid: int) -> float:
    """Return the processor time of a process and its descendants, ended ones included.

    Ended ones count with the process that waited for them; each is exact to a tick.
    """
    ticks = 0
    for each in _tree(pid):
        # One that ends just now counts with its parent next time.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{each}/stat").read_text(encoding="utf-8", errors="replace")
            # After the name, which may have any characters: utime, stime, cutime, cstime.
            ticks += sum(int(word) for word in text.rpartition(")")[2].split()[11:15])
    return ticks / _TICKS


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                yield from _tree(int(child))


def resident_mb(pid: int, field: str = "VmRSS") -> float:
    """Return a size from a process's status, given there in kB, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024
