"""The bare floor beside wasmdrop: runs floor.py between the bursts."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.measures import Case, rate
from benchmarks.tables import milliseconds, render
from benchmarks.workloads import Workload

__all__ = ["Floor"]

_PROGRAM: Final = Path(__file__).with_name("floor.py")
_SECONDS: Final = 2


class Floor:
    """A fresh process for each call of one function, and nothing else."""

    title = "Beside the bare floor: fork, map the code, instantiate, call, exit"

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._alone: list[float] = []
        self._rates: list[float] = []

    def step(self, base: Path) -> None:
        """Measure once."""
        path = base / "floor.wasm"
        path.write_bytes(self._workload.module)
        content, wanted = self._workload.input(1), self._workload.wanted(1)
        words = (content["entry"], *content["args"], *(wanted.results or ()))
        command = [sys.executable, _PROGRAM, path, *words, _SECONDS, os.cpu_count() or 1]
        done = subprocess.run(
            [str(word) for word in command], check=True, capture_output=True, text=True
        )
        found = json.loads(done.stdout)
        self._alone.append(found["seconds"])
        self._rates.append(found["rate"])

    def report(self, case: Case) -> str:
        """Return the table: the floor, and wasmdrop's burst beside it."""
        floor, burst = statistics.median(self._rates), rate(case.bursts)
        rows = [
            [
                "bare floor",
                milliseconds(statistics.median(self._alone)),
                f"{floor:,.1f}",
                "1.00",
            ],
            [
                case.contender.name,
                milliseconds(statistics.median(case.latencies)),
                f"{burst:,.1f}",
                f"{burst / floor:.2f}",
            ],
        ]
        head = ["who", "one after the other, median ms", "jobs a second", "share of the floor's"]
        return render(head, rows, words=1)
