"""The floor beside wasmdrop: runs fork_floor.c and floor.py between the bursts."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import wasmtime
from wasmtime import component

from benchmarks.measures import Case, rate
from benchmarks.processor_time import seconds_by_kind
from benchmarks.tables import milliseconds, render
from benchmarks.workloads import Workload

_PYTHON: Final = Path(__file__).with_name("floor.py")
_SECONDS: Final = 0.5
_NONE: Final = "-"
_IN_C: Final = "fork in C"


class Floor:
    """A process that has instantiated the module forks for each job: in C and in Python."""

    title = "Beside the floor: fork, call, exit"

    def __init__(self, base: Path, workloads: Sequence[Workload], native: Path | None) -> None:
        self._workloads = workloads
        self._ways = {} if native is None else {_IN_C: [str(native)]}
        self._ways["fork in Python"] = [sys.executable, str(_PYTHON)]
        self._words = {
            one.name: words_for(one, base / f"floor-{index}", _SECONDS)
            for index, one in enumerate(workloads)
        }
        self._found: dict[tuple[str, str], list[dict[str, float]]] = {}

    def step(self) -> None:
        """Measure each once."""
        for workload in self._workloads:
            for name in self._ways_of(workload):
                command = [*self._ways[name], *self._words[workload.name]]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                self._found.setdefault((workload.name, name), []).append(json.loads(done.stdout))

    def report(self, cases: Sequence[Case]) -> str:
        """Return the table: the floors, and wasmdrop beside them."""
        rows, first = [], next(iter(self._ways))
        for workload in self._workloads:
            lines = [(name, *self._median(workload, name)) for name in self._ways_of(workload)]
            lines += [
                (
                    case.contender.name,
                    statistics.median(case.latencies),
                    None,
                    rate(case.bursts),
                    sum(seconds_by_kind(case).values()),
                )
                for case in cases
                if case.workload is workload and case.contender.tells
            ]
            least_name, *least = lines[0]
            has_first = least_name == first
            rows += [
                [
                    workload.name,
                    name,
                    milliseconds(alone),
                    milliseconds(alone_cpu),
                    f"{jobs:,.1f}",
                    milliseconds(cpu),
                    f"{alone / (least[0] or 1):.1f}" if has_first else "-",
                    f"{cpu / (least[3] or 1):.1f}" if has_first else "-",
                ]
                for name, alone, alone_cpu, jobs, cpu in lines
            ]
        head = ["module", "who", "alone, median ms", "processor ms", "together, jobs a second"]
        head += ["processor ms a job", f"alone, times `{first}`", f"processor, times `{first}`"]
        return render(head, rows)

    def _ways_of(self, workload: Workload) -> list[str]:
        """Return the names of the programs that can run it."""
        return [name for name in self._ways if name != _IN_C or not workload.is_component]

    def _median(self, workload: Workload, name: str) -> tuple[float, float | None, float, float]:
        found = self._found[workload.name, name]
        names = ("seconds", "cpu_seconds", "rate", "rate_cpu_seconds")
        alone, alone_cpu, jobs, cpu = (
            statistics.median(one[key] for one in found) for key in names
        )
        return alone, alone_cpu, jobs, cpu


def words_for(workload: Workload, directory: Path, seconds: float) -> list[str]:
    """Return the arguments of the floor's programs, whose files go to ``directory``."""
    directory.mkdir()
    content, wanted = workload.input(1), workload.wanted(1)
    code, stdin, output, files = (directory / name for name in ("code", "stdin", "stdout", "files"))
    kind = component.Component if workload.is_component else wasmtime.Module
    code.write_bytes(kind(wasmtime.Engine(), workload.module).serialize())
    # As many processes as the daemon has workers.
    ends = [str(seconds), str(len(os.sched_getaffinity(0)))]
    if wanted.results is not None:
        result, *arguments = (json.dumps(one) for one in (*wanted.results, *content["args"]))
        return [str(code), content["entry"], result, _NONE, _NONE, *ends, *arguments]
    output.write_bytes(wanted.stdout or b"")
    stdin.write_text(content.get("stdin", ""), encoding="utf-8")
    files.mkdir()
    for name, text in content.get("files", {}).items():
        (files / name).write_text(text, encoding="utf-8")
    given = [str(stdin) if "stdin" in content else _NONE]
    given.append(str(files) if "files" in content else _NONE)
    return [str(code), "_start", str(output), *given, *ends]
