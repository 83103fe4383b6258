#!/usr/bin/env python3
"""Measure how long the drops of one directory take while another one floods the daemon.

python benchmarks/fairness.py [--flood N] [--drops N] [--queued N] [--dir DIR]

One directory drops N jobs that never end, all at once, each in its own slot. Beside it, another one
drops a job a second. Measured are the times from drop to marker of the second one: alone, without
limits, with a limit of the running jobs of a directory, and with a limit of the waiting ones, too.
"""

import argparse
import json
import math
import multiprocessing
import os
import select
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

if __name__ == "__main__":
    # Started by its path, Python searches only beside this file, and the parts are one package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import wasmtime

from benchmarks import workloads
from benchmarks.client import Client, result_name
from benchmarks.contenders import Wasmdrop
from benchmarks.suite import described
from benchmarks.tables import milliseconds, quantile, render

_ENDLESS: Final = bytes(wasmtime.wat2wasm('(module (func (export "run") (loop (br 0))))'))
_PERIOD_SECONDS: Final = 1.0
_WARM_UP: Final = 5

#: How long the last drops are waited for, in seconds.
_GRACE_SECONDS: Final = 10.0


class _Limited(Wasmdrop):
    def __init__(self, base: Path, modules: dict[str, bytes], limits: dict[str, int]) -> None:
        super().__init__(base, modules)
        self._limits = {f"WASMDROP_DIRECTORY_{name}": str(value) for name, value in limits.items()}

    def variables(self) -> dict[str, str]:
        """Return the directories and the limits; jobs that never end do not delay the stop."""
        return super().variables() | self._limits | {"WASMDROP_DRAIN_SEC": "0"}


class Figures(NamedTuple):
    """The latencies of the second directory, in seconds; infinite if there was no marker."""

    latencies: list[float]
    refused: int
    """Jobs of the flood that were refused."""


def measure(
    base: Path, fib: workloads.Workload, limits: dict[str, int], flood: int, drops: int
) -> Figures:
    """Run one daemon with these limits; ``flood`` and ``drops``: jobs of each directory."""
    daemon = _Limited(base, {fib.module_name: fib.module, "endless": _ENDLESS}, limits)
    many, few = daemon.shared / "many", daemon.shared / "few"
    many.mkdir()
    few.mkdir()
    for number in range(flood):
        (many / f".{number}").write_text('{"module": "endless"}')
    daemon.start()
    client = Client(few)
    try:
        for number in range(_WARM_UP):
            client.drop(f"input-warm-{number}.json", fib.input(number))
        flooding = multiprocessing.Process(target=_flood, args=(many, flood))
        flooding.start()
        latencies = _drop_each_second(client, fib, drops)
        flooding.join()
    finally:
        client.close()
        daemon.stop()
    markers = [entry.path for entry in os.scandir(many) if entry.name.endswith(".done")]
    codes = [json.loads(Path(path).read_bytes())["code"] for path in markers]
    return Figures(latencies, codes.count("queue-limit"))


def _flood(directory: Path, count: int) -> None:
    for number in range(count):
        (directory / f".{number}").rename(directory / f"input-{number}.json")


def _drop_each_second(client: Client, fib: workloads.Workload, drops: int) -> list[float]:
    """Drop at fixed times, whether the jobs before have ended or not; return the latencies."""
    began = time.monotonic()
    dropped_at: dict[str, float] = {}
    latencies: dict[str, float] = {}
    while len(latencies) < drops:
        number = len(dropped_at)
        last_at = began + drops * _PERIOD_SECONDS + _GRACE_SECONDS
        next_at = began + number * _PERIOD_SECONDS if number < drops else last_at
        left = next_at - time.monotonic()
        if left > 0:
            if select.select([client.fd], [], [], left)[0]:
                now = time.monotonic()
                for name in client.appeared() & dropped_at.keys():
                    latencies[name] = now - dropped_at[name]
        elif number < drops:
            name = f"input-{number}.json"
            prepared = client.prepare(name, fib.input(number))
            dropped_at[result_name(name, ".done")] = time.monotonic()
            prepared.rename(client.directory / name)
        else:
            break
    return [latencies.get(name, math.inf) for name in dropped_at]


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Measure wasmdrop's limits per directory.")
    parser.add_argument("--flood", type=int, default=50_000, metavar="N", help="endless jobs")
    parser.add_argument("--drops", type=int, default=120, metavar="N", help="one a second")
    parser.add_argument("--queued", type=int, default=1000, metavar="N", help="limit of the flood")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), metavar="DIR")
    options = parser.parse_args()
    fib = next(one for one in workloads.find() if isinstance(one, workloads.Workload))
    running = max(1, len(os.sched_getaffinity(0)) - 1)
    both = {"RUNNING": running, "QUEUED": options.queued}
    cases: list[tuple[str, dict[str, int], int]] = [
        ("no flood", {}, 0),
        ("no limits", {}, options.flood),
        (f"WASMDROP_DIRECTORY_RUNNING={running}", {"RUNNING": running}, options.flood),
        (f"the same, and WASMDROP_DIRECTORY_QUEUED={options.queued}", both, options.flood),
    ]
    rows = []
    for name, limits, flood in cases:
        with tempfile.TemporaryDirectory(dir=options.dir, prefix="wasmdrop-benchmark-") as base:
            figures = measure(Path(base).resolve(), fib, limits, flood, options.drops)
        rows.append([name, *_row(figures, options.drops)])
        sys.stderr.write(f"{' '.join(rows[-1])}\n")
    head = ["daemon", "median ms", "p99 ms", "max ms", "done", "refused of the flood"]
    title = f"A drop a second beside {options.flood:,} endless jobs of another directory"
    table = render(head, rows, words=1)
    sys.stdout.write(f"{described(options.dir)}\n\n### {title}\n\n{table}\n")
    return 0


def _row(figures: Figures, drops: int) -> list[str]:
    values = figures.latencies
    shown = [_shown(quantile(values, share)) for share in (0.5, 0.99)]
    done = sum(map(math.isfinite, values))
    return [*shown, _shown(max(values)), f"{done} of {drops}", f"{figures.refused:,}"]


def _shown(seconds: float | None) -> str:
    return "never" if seconds == math.inf else milliseconds(seconds)


if __name__ == "__main__":
    sys.exit(main())
