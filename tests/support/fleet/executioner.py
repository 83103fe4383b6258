"""Kills what runs the endless jobs of a :mod:`~tests.support.fleet.job_mix`.

An endless job is known by its processor time, which no other job needs, and nearly all of it as
user: a process that forks much has most of it in the kernel.
"""

import os
import signal
from pathlib import Path
from typing import Final

from tests.support.daemon import descendants_of
from tests.support.fleet.job_mix import HOG_BYTES
from tests.support.fleet.machines import Fleet, FleetDaemon, Worker

_ENDLESS_SECONDS: Final = 3.0
_SHARE_OF_KERNEL: Final = 0.1

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Executioner:
    """Kills the processes of endless jobs; of a hog on a worker, the worker."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.process_kills = 0
        self.worker_kills = 0

    def look(self) -> None:
        """Kill what runs an endless job now."""
        for node in self._fleet.nodes:
            if node.process is not None:
                self._look_below(node, node.process.pid)

    def _look_below(self, node: Worker | FleetDaemon, pid: int) -> None:
        for child in descendants_of(pid):
            memory_bytes = _memory_if_endless(child)
            if memory_bytes is None:
                continue
            if isinstance(node, Worker) and memory_bytes > HOG_BYTES:
                self.worker_kills += 1
                node.kill()
                node.launch()
                return
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
            self.process_kills += 1


def _memory_if_endless(pid: int) -> int | None:
    """Return the resident memory of a process in bytes if it runs an endless job; see proc(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    user, kernel = (int(ticks) / _TICKS_PER_SECOND for ticks in fields[11:13])
    is_endless = user > _ENDLESS_SECONDS and kernel < _SHARE_OF_KERNEL * user
    return int(fields[21]) * _PAGE_BYTES if is_endless else None
