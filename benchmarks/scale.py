#!/usr/bin/env python3
"""Measure the cost of a job and the daemon's memory against the number of jobs and slots.

python benchmarks/scale.py [--slots N] [--drops N] [--plots DIR] [--dir DIR]

Three daemons run a thousandth, a tenth and all of N jobs, each job in its own slot. Then they are
measured in turns, so that other load affects all alike, and the one with the most slots is
restarted, once with new inputs. A fourth runs N jobs in a hundredth as many slots, in memory
instead of on the disk: it shows how much a daemon remembers of jobs alone.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    # Started by its path, Python searches only beside this file, and the parts are one package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import workloads
from benchmarks.contenders import Wasmdrop
from benchmarks.filling import Filling, Memory, Turn
from benchmarks.plots import bars, lines
from benchmarks.suite import described
from benchmarks.tables import milliseconds, quantile, render
from benchmarks.usage import resident_mb

_WARM_UP: Final = 20

#: Drops of one daemon per turn. Processor time is counted in ticks of 10 ms, so that fewer drops
#: would give no usable figure.
_TURN: Final = 50

#: Shares of all jobs after which memory is read.
_MOMENTS: Final = (0.01, 0.1, 0.5, 1.0)

FRESH: Final = "fresh slots"
REUSED: Final = "reused slots"


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description="Measure wasmdrop with very many slots.")
    parser.add_argument("--slots", type=int, default=100_000, metavar="N", help="at least 100")
    parser.add_argument("--drops", type=int, default=800, metavar="N", help="of each daemon")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="also draw them, as SVG, in DIR")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), metavar="DIR")
    parser.add_argument("--memory-dir", type=Path, default=Path("/dev/shm"), metavar="DIR")  # noqa: S108 - a tmpfs, by its name
    options = parser.parse_args()
    about = described(options.dir)
    fib = next(one for one in workloads.find() if isinstance(one, workloads.Workload))
    with (
        tempfile.TemporaryDirectory(dir=options.dir, prefix="wasmdrop-benchmark-") as base,
        tempfile.TemporaryDirectory(dir=options.memory_dir, prefix="wasmdrop-benchmark-") as quick,
    ):
        bases = Path(base).resolve(), Path(quick).resolve()
        scale = Scale(*bases, fib, max(100, options.slots))
        try:
            scale.grow()
            tables = [scale.cost(options.drops), scale.memory_table(), scale.restart()]
        finally:
            for filling in scale.all:
                filling.daemon.stop()
    sys.stdout.write("\n\n".join([about, *tables]) + "\n")
    if options.plots is not None:
        for name, image in scale.plots().items():
            (options.plots / f"{name}.svg").write_text(image, encoding="utf-8")
    return 0


class Scale:
    """The daemons, and their measurements."""

    def __init__(self, base: Path, quick: Path, fib: workloads.Workload, slots: int) -> None:
        self.slots = slots
        # That of the most slots is filled last: its scans of all of them would take time from
        # the others.
        self._sizes = [slots // 1000 or 1, slots // 10, slots]
        modules = {fib.module_name: fib.module}
        self._sized = [
            Filling(Wasmdrop(base / f"slots{size}", modules), fib) for size in self._sizes
        ]
        # Where files are replaced for minutes without a pause, some disks take ever longer for each
        # new one; and memory is what this one is about.
        self._reusing = Filling(Wasmdrop(quick, modules), fib)
        self.all = [self._reusing, *self._sized]
        self._memory: dict[str, list[Memory]] = {}
        self._cpu: dict[str, float] = {}

    def grow(self) -> None:
        """Start all and let them run their jobs."""
        self._live(self._reusing, REUSED)
        self._reusing.daemon.stop()
        *smaller, largest = self._sized
        for size, filling in zip(self._sizes, smaller, strict=False):
            _tell(f"{size:,} jobs in as many slots")
            filling.start()
            filling.run(size, self._batch)
        self._live(largest, FRESH)

    @property
    def _batch(self) -> int:
        return self.slots // 100

    def _live(self, filling: Filling, name: str) -> None:
        """Let a daemon run all jobs in one life, and read its memory now and then."""
        _tell(f"{self.slots:,} jobs in {name}")
        filling.start()
        so_far = 0
        for share in _MOMENTS:
            until = round(self.slots * share)
            filling.run(until - so_far, self._batch, reuses=name == REUSED)
            so_far = until
            self._memory.setdefault(name, []).append(filling.memory())

    def cost(self, drops: int) -> str:
        """Measure the cost of one more job for each of them; return the table."""
        _tell("drops in turns")
        # The first one once more, with a consumer that moves every result away.
        journals = [filling.journal_bytes() for filling in self._sized]
        ways = [(filling, False) for filling in self._sized] + [(self._sized[0], True)]
        for filling in self._sized:
            filling.turn(_WARM_UP)
        turns: list[list[Turn]] = [[] for _ in ways]
        for number in range(max(1, drops // _TURN)):
            order = list(zip(ways, turns, strict=True))[:: 1 if number % 2 else -1]
            for (filling, moves_away), taken in order:
                taken.append(filling.turn(min(drops, _TURN), moves_away=moves_away))
        rows = []
        first, first_cpu = _seconds(turns[0]), _cpu(turns[0])
        for size, taken, journal in zip(
            [*self._sizes, self._sizes[0]], turns, [*journals, journals[0]], strict=True
        ):
            seconds, cpu = _seconds(taken), _cpu(taken)
            what = f"{size:,} slots"
            if taken is turns[-1]:
                what += ", results moved away"
            self._cpu[what] = cpu * 1e3
            rows.append(
                [
                    what,
                    f"{journal / 1e6:.1f}",
                    str(len(seconds)),
                    *(milliseconds(quantile(seconds, share)) for share in (0.5, 0.95, 0.99)),
                    f"{statistics.median(seconds) / statistics.median(first):.2f}",
                    milliseconds(cpu),
                    f"{cpu / first_cpu:.2f}",
                ]
            )
        head = ["with", "journal MB", "drops", "median ms", "p95 ms", "p99 ms"]
        head += ["times as long", "processor ms a job", "times as much"]
        title = "### What one more job costs, from drop to marker"
        return f"{title}\n\n{render(head, rows, words=1)}"

    def memory_table(self) -> str:
        """Return the table of the daemons' memory in one life."""
        rows = [
            [
                f"{fresh.jobs:,}",
                *(f"{one:.1f}" for one in (fresh.daemon, fresh.processes)),
                *(f"{one:.1f}" for one in (reused.daemon, reused.processes)),
            ]
            for fresh, reused in zip(self._memory[FRESH], self._memory[REUSED], strict=True)
        ]
        head = ["jobs done"]
        for name in (FRESH, REUSED):
            head += [f"{name}: daemon, resident MiB", f"{name}: all its processes, PSS MiB"]
        title = "### Memory over the jobs of one life"
        return f"{title}\n\n{render(head, rows, words=0)}"

    def restart(self) -> str:
        """Restart the daemon with the most slots, with new inputs and without; return the table."""
        _tell("restarts")
        for filling in self._sized:
            filling.daemon.stop()
        filling, new = self._sized[-1], self.slots // 10
        bytes_a_job = filling.journal_bytes() / (self.slots + filling.serial)
        filling.fill(new)
        started = time.perf_counter()
        first_ready, _resident = filling.start()
        filling.wait_for_all(new)
        seconds = time.perf_counter() - started
        peak_mb = resident_mb(filling.daemon.pid, "VmHWM")
        filling.daemon.stop()
        ready, ready_mb = filling.start()
        slots = self.slots + new
        rows = [
            [f"start with {self.slots:,} finished slots and {new:,} new inputs, s until ready"],
            ["... jobs a second until the last marker"],
            ["... most resident memory of the daemon, MiB"],
            [f"start with {slots:,} finished slots, s until ready"],
            ["... resident memory of the daemon, MiB"],
            ["journal, bytes a job"],
        ]
        values = [f"{first_ready:.1f}", f"{new / seconds:.0f}", f"{peak_mb:.0f}"]
        values += [f"{ready:.1f}", f"{ready_mb:.0f}", f"{bytes_a_job:.0f}"]
        cells = [[*row, value] for row, value in zip(rows, values, strict=True)]
        return f"### Restart\n\n{render(['what', 'value'], cells, words=1)}"

    def plots(self) -> Mapping[str, str]:
        """Return images by name."""
        resident = {FRESH: self._sized[-1].resident, REUSED: self._reusing.resident}
        return {
            "growth": lines("Resident memory of the daemon, MiB, by jobs done", resident),
            "sizes": bars("Processor time of a job, ms", self._cpu),
        }


def _seconds(turns: Sequence[Turn]) -> list[float]:
    return [one for turn in turns for one in turn.seconds]


def _cpu(turns: Sequence[Turn]) -> float:
    # The median of the turns: a periodic full scan, which is no job's cost and which
    # idle.py measures, may fall into one of them.
    return statistics.median(turn.cpu_seconds for turn in turns)


def _tell(text: str) -> None:
    sys.stderr.write(f"{text} ...\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
