"""One daemon with directories that fill up: with jobs while it runs, or with inputs before."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.client import Client, drop_all, result_name
from benchmarks.contenders import Wasmdrop
from benchmarks.usage import cpu_seconds_with_ended, processes, resident_mb
from benchmarks.workloads import Workload

_GLANCE_SECONDS: Final = 0.2
_A_DIRECTORY: Final = 1000

#: Pause before memory is read, so that journal writes and forks of idle children have ended.
_SETTLE_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Turn:
    """Some drops, one after the other."""

    seconds: list[float]
    """From drop to marker, each."""
    cpu_seconds: float
    """Of the daemon and all its children, a job."""


@dataclass(frozen=True)
class Memory:
    """Memory of a daemon at one moment, in MiB."""

    jobs: int
    """So many it has done in this life."""
    daemon: float
    """Resident memory of its own process."""
    processes: float
    """PSS of all its processes: pages that they share divided among them."""


class Filling:
    """A daemon, and its drops."""

    def __init__(self, daemon: Wasmdrop, workload: Workload) -> None:
        self.workload = workload
        self.daemon = daemon
        self.serial = 0
        self.resident: list[tuple[int, float]] = []
        """Jobs done in this life, and the daemon's resident MiB then."""
        self._batches = 0

    def start(self) -> tuple[float, float]:
        """Start the daemon; return the seconds until it was ready, and its resident MiB then."""
        started = time.perf_counter()
        self.daemon.start()
        return time.perf_counter() - started, resident_mb(self.daemon.pid)

    def fill(self, slots: int) -> None:
        """Drop this many inputs, a thousand per directory, while the daemon does not run."""
        for number in range(slots):
            directory = self.daemon.shared / f"d{number // _A_DIRECTORY}"
            directory.mkdir(exist_ok=True)
            text = json.dumps(self.workload.input(number))
            (directory / f"input-{number}.json").write_text(text, encoding="utf-8")

    def wait_for_all(self, slots: int) -> None:
        """Wait for this many result lines, then for the last marker."""
        while (self.daemon.base / "out").read_bytes().count(b"\n") < slots:
            time.sleep(_GLANCE_SECONDS)
        missing = [
            number
            for number in range(slots)
            if not (
                self.daemon.shared / f"d{number // _A_DIRECTORY}" / f"result-{number}.done"
            ).exists()
        ]
        if missing:
            raise SystemExit(f"{len(missing)} markers are missing, such as that of {missing[0]}")

    def run(self, jobs: int, batch: int, *, reuses: bool = False) -> None:
        """Run this many jobs, one batch at a time, each batch in its own directory.

        With ``reuses`` into the same slots again and again: what is remembered of slots stays, and
        what is remembered of jobs does not.
        """
        for done in range(0, jobs, batch):
            directory = self.daemon.shared / ("same" if reuses else f"batch{self._batches}")
            directory.mkdir(exist_ok=True)
            # By one more per batch, so that no slot gets its earlier input again.
            numbers = range(done + self._batches, done + self._batches + min(batch, jobs - done))
            self._batches += 1
            drops = {f"input-{at}.json": number for at, number in enumerate(numbers)}
            client = Client(directory)
            try:
                inputs = {name: self.workload.input(number) for name, number in drops.items()}
                drop_all([(client, inputs)])
            finally:
                client.close()
            for name in (min(drops), max(drops)):
                wanted = self.workload.wanted(drops[name])
                self.daemon.check(f"{directory.name}/{name}", inputs[name], wanted)
            so_far = self.resident[-1][0] if self.resident else 0
            self.resident.append((so_far + len(drops), resident_mb(self.daemon.pid)))

    def memory(self) -> Memory:
        """Return the memory of the idle daemon."""
        time.sleep(_SETTLE_SECONDS)
        pss_mb = sum(each.pss_mb for each in processes(self.daemon.pid))
        return Memory(self.resident[-1][0], resident_mb(self.daemon.pid), pss_mb)

    def journal_bytes(self) -> int:
        """Return the size of the journal's files."""
        state = self.daemon.base / "state"
        return sum(path.stat().st_size for path in state.rglob("*.sqlite*"))

    def turn(self, drops: int, *, moves_away: bool = False) -> Turn:
        """Drop into fresh slots of one directory, one after the other.

        With ``moves_away``, a consumer moves every result out of the tree as soon as it is there.
        """
        aside = self.daemon.base / "aside"
        aside.mkdir(exist_ok=True)
        client = Client(self.daemon.shared)
        seconds = []
        before = cpu_seconds_with_ended(self.daemon.pid)
        try:
            for _ in range(drops):
                self.serial += 1
                name = f"input-{self.serial}.json"
                content = self.workload.input(self.serial)
                taken, _dropped_at = client.drop(name, content)
                seconds.append(taken)
                self.daemon.check(name, content, self.workload.wanted(self.serial))
                if moves_away:
                    _move(self.daemon.shared, aside, name)
        finally:
            client.close()
        cpu = cpu_seconds_with_ended(self.daemon.pid) - before
        return Turn(seconds, cpu / drops)


def _move(shared: Path, aside: Path, name: str) -> None:
    for suffix in (".json", ".txt", ".done"):
        found = result_name(name, suffix)
        (shared / found).rename(aside / found)
    (shared / name).rename(aside / name)
