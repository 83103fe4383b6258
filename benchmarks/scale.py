#!/usr/bin/env python3
"""Measure wasmdrop with very many slots: memory, restart, and what they cost the next job.

python benchmarks/scale.py [--slots N] [--drops N] [--dir DIR]

Drops so many inputs while no daemon runs, starts one, waits for every marker, restarts it, and
measures drops into fresh slots before and after, also while a consumer moves every result away.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    # Started by its path, Python looks beside this file: the parts are modules of one package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import workloads
from benchmarks.client import Client, result_name
from benchmarks.contenders import Wasmdrop
from benchmarks.tables import milliseconds, render

_WARM_UP: Final = 20
_GLANCE_SECONDS: Final = 0.2


class Scale:
    """One daemon on directories that fill up."""

    def __init__(self, daemon: Wasmdrop, fib: workloads.Workload) -> None:
        self.fib = fib
        self.daemon = daemon
        self.serial = 0

    def start(self) -> tuple[float, float]:
        """Start the daemon; return the seconds until it was ready, and its resident MiB then."""
        started = time.perf_counter()
        self.daemon.start()
        return time.perf_counter() - started, self.resident_mb("VmRSS")

    def resident_mb(self, field: str) -> float:
        """Return a size of the daemon's process (proc_pid_status(5)) in MiB."""
        lines = Path(f"/proc/{self.daemon.pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

    def fill(self, slots: int) -> None:
        """Drop so many inputs, a thousand a directory."""
        for number in range(slots):
            directory = self.daemon.shared / f"d{number // 1000}"
            directory.mkdir(exist_ok=True)
            text = json.dumps(self.fib.input(number))
            (directory / f"input-{number}.json").write_text(text, encoding="utf-8")

    def wait_for_all(self, slots: int) -> None:
        """Wait until there are so many result lines, then for the last marker."""
        while (self.daemon.base / "out").read_bytes().count(b"\n") < slots:
            time.sleep(_GLANCE_SECONDS)
        missing = [
            number
            for number in range(slots)
            if not (self.daemon.shared / f"d{number // 1000}" / f"result-{number}.done").exists()
        ]
        if missing:
            raise SystemExit(f"{len(missing)} markers are missing, such as that of {missing[0]}")

    def latencies(self, drops: int, *, moves_away: bool = False) -> list[float]:
        """Drop into fresh slots of one directory, one after the other; return the seconds of each.

        With ``moves_away``, a consumer moves every result out of the tree as soon as it is there.
        """
        aside = self.daemon.base / "aside"
        aside.mkdir(exist_ok=True)
        client = Client(self.daemon.shared)
        seconds = []
        try:
            for number in range(-_WARM_UP, drops):
                self.serial += 1
                name = f"input-{self.serial}.json"
                content, wanted = self.fib.input(self.serial), self.fib.wanted(self.serial)
                taken, _dropped_at = client.drop(name, content)
                if number >= 0:
                    seconds.append(taken)
                self.daemon.check(name, content, wanted)
                if moves_away:
                    _move(self.daemon.shared, aside, name)
        finally:
            client.close()
        return seconds


def _move(shared: Path, aside: Path, name: str) -> None:
    for suffix in (".json", ".txt", ".done"):
        found = result_name(name, suffix)
        (shared / found).rename(aside / found)
    (shared / name).rename(aside / name)


def main() -> int:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description="Measure wasmdrop with very many slots.")
    parser.add_argument("--slots", type=int, default=100_000, metavar="N")
    parser.add_argument("--drops", type=int, default=200, metavar="N")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), metavar="DIR")
    options = parser.parse_args()
    fib = next(one for one in workloads.find() if isinstance(one, workloads.Workload))
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="wasmdrop-benchmark-") as base:
        scale = Scale(Wasmdrop(Path(base).resolve(), {fib.module_name: fib.module}), fib)
        try:
            rows = _measure(scale, options.slots, options.drops)
        finally:
            scale.daemon.stop()
    sys.stdout.write(render(["what", "value"], rows, words=1) + "\n")
    return 0


def _measure(scale: Scale, slots: int, drops: int) -> list[list[str]]:
    scale.start()
    before = scale.latencies(drops)
    moved = scale.latencies(drops, moves_away=True)
    plain = scale.latencies(drops)
    scale.daemon.stop()
    done = scale.serial
    scale.fill(slots)
    started = time.perf_counter()
    first_ready, _resident = scale.start()
    scale.wait_for_all(slots)
    seconds = time.perf_counter() - started
    peak_mb = scale.resident_mb("VmHWM")
    scale.daemon.stop()
    ready, ready_mb = scale.start()
    after = scale.latencies(drops)
    state = sum(path.stat().st_size for path in (scale.daemon.base / "state").rglob("*.sqlite*"))
    near = _median([*before, *plain])
    return [
        [f"drop to marker, {done} slots, median ms", milliseconds(near)],
        ["the same while a consumer moves every result away", milliseconds(_median(moved))],
        ["... so many times as long", f"{_median(moved) / near:.2f}"],
        [f"start with {slots:,} new inputs, s until ready", f"{first_ready:.1f}"],
        ["... jobs a second until the last marker", f"{slots / seconds:.0f}"],
        ["... most resident memory of the daemon, MiB", f"{peak_mb:.0f}"],
        [f"start with {slots:,} finished slots, s until ready", f"{ready:.1f}"],
        ["... resident memory of the daemon, MiB", f"{ready_mb:.0f}"],
        [f"drop to marker, {slots:,} slots, median ms", milliseconds(_median(after))],
        ["... so many times as long as with few", f"{_median(after) / near:.2f}"],
        ["journal, bytes a job", f"{state / (slots + scale.serial):.0f}"],
    ]


def _median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(main())
