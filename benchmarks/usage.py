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

MAIN: Final = "itself"
DELIVERY: Final = "delivery worker"
FORK_SERVER: Final = "fork server"
ZYGOTE: Final = "zygotes"
CHILD: Final = "children"

#: Kinds of processes below the first one. A zygote is below the fork server, and children are all
#: others. A contender other than wasmdrop has only itself and children.
KINDS: Final = (MAIN, DELIVERY, FORK_SERVER, ZYGOTE, CHILD)


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
    seconds = 0.0
    for each in _tree(pid):
        # One that ends just now counts with its parent next time.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            seconds += sum(_own_and_ended_seconds(each))
    return seconds


def cpu_seconds_by_kind(pid: int) -> dict[str, float]:
    """Return the processor time of a process and its descendants by their kind; see ``KINDS``.

    Ended processes count as children. Each figure is exact to a tick per process.
    """
    seconds = dict.fromkeys(KINDS, 0.0)
    _add_by_kind(pid, "", seconds)
    return seconds


def _add_by_kind(pid: int, parent_kind: str, seconds: dict[str, float]) -> None:
    below = list(_children(pid))
    # One that ends just now counts with its parent next time.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        kind = _kind(pid, parent_kind, has_children=bool(below))
        own, ended = _own_and_ended_seconds(pid)
        seconds[kind] += own
        seconds[CHILD] += ended
        for child in below:
            _add_by_kind(child, kind, seconds)


def _kind(pid: int, parent_kind: str, *, has_children: bool) -> str:
    if not parent_kind:
        return MAIN
    directory = Path(f"/proc/{pid}")
    if parent_kind == MAIN:
        command = (directory / "cmdline").read_bytes()
        if command.startswith(b"wasmdrop: delivery worker"):
            return DELIVERY
        return FORK_SERVER if command.startswith(b"wasmdrop: fork server") else CHILD
    forks = has_children or (directory / "cmdline").read_bytes().startswith(b"wasmdrop: zygote")
    return ZYGOTE if parent_kind == FORK_SERVER and forks else CHILD


def _own_and_ended_seconds(pid: int) -> tuple[float, float]:
    """Return the processor time of a process, and of its ended children that it waited for."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    # After the name, which may have any characters.
    utime, stime, cutime, cstime = map(int, text.rpartition(")")[2].split()[11:15])
    return (utime + stime) / _TICKS, (cutime + cstime) / _TICKS


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (task / "children").read_text(encoding="ascii").split())


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for child in _children(pid):
        yield from _tree(child)


def resident_mb(pid: int, field: str = "VmRSS") -> float:
    """Return a size from a process's status, given there in kB, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024
