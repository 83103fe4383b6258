"""The bare floor beside wasmdrop: runs floor.py between the bursts."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.measures import Case, rate
from benchmarks.tables import milliseconds, render
from benchmarks.workloads import Workload

_PROGRAM: Final = Path(__file__).with_name("floor.py")
_SECONDS: Final = 2


class Floor:
    """Several ways to run each call of a function in a fresh process, and nothing else."""

    title = "Beside the bare floor: fork, instantiate, call, exit"

    def __init__(self, workloads: Sequence[Workload], native: Path | None) -> None:
        self._workloads = workloads
        self._ways = {"fork": "fork", "fork, map": "map"}
        if native is not None:
            self._ways["native"] = str(native)
        self._alone: dict[tuple[str, str], list[float]] = {}
        self._rates: dict[tuple[str, str], list[float]] = {}

    def step(self, base: Path) -> None:
        """Measure each once."""
        for workload in self._workloads:
            path = base / "floor.wasm"
            path.write_bytes(workload.module)
            content, wanted = workload.input(1), workload.wanted(1)
            words = (content["entry"], *content["args"], *(wanted.results or ()))
            # As many as the daemon has workers.
            workers = len(os.sched_getaffinity(0))
            for name, way in self._ways.items():
                command = [sys.executable, _PROGRAM, way, path, *words, _SECONDS, workers]
                done = subprocess.run(
                    [str(word) for word in command],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                found = json.loads(done.stdout)
                self._alone.setdefault((workload.name, name), []).append(found["seconds"])
                self._rates.setdefault((workload.name, name), []).append(found["rate"])

    def report(self, cases: Sequence[Case]) -> str:
        """Return the table: the floors, and the bursts of wasmdrop beside the first of them."""
        rows = []
        for workload in self._workloads:
            lines = [
                (
                    name,
                    statistics.median(self._alone[workload.name, name]),
                    self._rate(workload, name),
                )
                for name in self._ways
            ]
            lines += [
                (case.contender.name, statistics.median(case.latencies), rate(case.bursts))
                for case in cases
                if case.workload is workload and case.contender.tells
            ]
            rows += [
                [
                    workload.name,
                    name,
                    milliseconds(alone),
                    f"{jobs:,.1f}",
                    *(f"{jobs / self._rate(workload, floor):.2f}" for floor in self._ways),
                ]
                for name, alone, jobs in lines
            ]
        shares = [f"share of `{name}`" for name in self._ways]
        return render(["module", "who", "alone, median ms", "jobs a second", *shares], rows)

    def _rate(self, workload: Workload, name: str) -> float:
        return statistics.median(self._rates[workload.name, name])
