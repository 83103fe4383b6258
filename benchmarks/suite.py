"""The suite: starts the contenders, measures them in turns, prints the tables.

A measure is a class with ``step``, called once a round for each case, and ``report``. In turns, so
that whatever else the machine does in the meantime hits all contenders alike.
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks import contenders, workloads
from benchmarks.client import Client, MissingError
from benchmarks.contenders import Contender, WrongError
from benchmarks.tables import milliseconds, quantile, render
from benchmarks.workloads import LeftOut, Workload

__all__ = ["machine", "main"]

#: Drops before the measurement, each: modules compiled, pages read, children forked.
_WARM_UP: Final = 3

#: Drops of one contender before it is another's turn: one after the other, as producers drop, and
#: few enough that what else the machine does hits all alike.
_TURN: Final = 10

#: A contender that needs a second for each job takes part in one of so many rounds.
_SLOW_EVERY: Final = 5

#: Bursts of each case, in turns; the median is shown.
_BURSTS: Final = 3

#: By how much smaller a burst is for who starts a Python each, and for who also compiles long.
_SMALLER: Final = 10
_MUCH_SMALLER: Final = 100


@dataclass
class Case:
    """One contender on one workload, and what was measured."""

    contender: Contender
    client: Client
    workload: Workload
    drops: int = 0
    latencies: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    bursts: list[tuple[int, float]] = field(default_factory=list)

    @property
    def is_slow(self) -> bool:
        """Whether each job takes long, whatever the machine."""
        return self.contender.compiles_each_time and self.workload.slow_elsewhere

    def next_input(self) -> tuple[str, dict[str, Any], list[Any]]:
        """Return a name that no drop had, an input, and its results."""
        self.drops += 1
        name = f"input-{self.workload.module_name}-{self.drops}.json"
        return name, self.workload.input(self.drops), self.workload.results(self.drops)

    def drop(self) -> tuple[float, float, dict[str, Any]]:
        """Drop one input and check the result; return latency, time of the drop, and marker."""
        name, content, results = self.next_input()
        latency, dropped_at = self.client.drop(name, content)
        return latency, dropped_at, self.contender.check(name, content, results)


class Latency:
    """Drop to marker, one drop after the other, each into a slot of its own."""

    title = "Drop to marker, one after the other, ms"

    def __init__(self, drops: int) -> None:
        self.rounds = math.ceil(drops / _TURN)

    def step(self, case: Case, number: int) -> None:
        """Measure one turn."""
        if case.is_slow and number % _SLOW_EVERY:
            return
        for _ in range(_TURN):
            latency, dropped_at, marker = case.drop()
            case.latencies.append(latency)
            if case.contender.tells:
                case.stages.append(_stages(latency, dropped_at, marker))

    def report(self, cases: Sequence[Case]) -> str:
        """Return the table of latencies and that of the stages."""
        rows = []
        for case in cases:
            values = case.latencies
            rows.append(
                [
                    case.workload.name,
                    case.contender.name,
                    str(len(values)),
                    *(milliseconds(quantile(values, share)) for share in (0.5, 0.95, 0.99)),
                    milliseconds(min(values)),
                    _ratio(case, cases, lambda one: statistics.median(one.latencies)),
                ]
            )
        head = ["module", "who", "drops", "median", "p95", "p99", "min", "ratio"]
        return f"{render(head, rows)}\n\n{self._report_stages(cases)}"

    @staticmethod
    def _report_stages(cases: Sequence[Case]) -> str:
        told = [case for case in cases if case.stages]
        names = list(told[0].stages[0])
        rows = []
        for case in told:
            medians = (statistics.median(one[name] for one in case.stages) for name in names)
            rows.append([case.workload.name, *map(milliseconds, medians)])
        title = "Where wasmdrop's time goes, from its markers, medians in ms"
        return f"{title}\n\n{render(['module', *names], rows, words=1)}"


class Throughput:
    """Many slots dropped at once."""

    title = "A burst of slots, jobs a second"

    def __init__(self, burst: int) -> None:
        self.rounds = _BURSTS
        self._burst = burst

    def step(self, case: Case, number: int) -> None:
        """Drop one burst and check every result."""
        if case.is_slow and number:
            return
        drops = [case.next_input() for _ in range(self._size(case))]
        seconds = case.client.drop_all({name: content for name, content, _results in drops})
        case.bursts.append((len(drops), seconds))
        for drop in drops:
            case.contender.check(*drop)

    def report(self, cases: Sequence[Case]) -> str:
        """Return the table of jobs a second."""
        rows = [
            [
                case.workload.name,
                case.contender.name,
                str(case.bursts[0][0]),
                str(len(case.bursts)),
                f"{_rate(case):,.1f}",
                _ratio(case, cases, lambda one: 1 / _rate(one)),
            ]
            for case in cases
        ]
        return render(["module", "who", "slots", "bursts", "median", "ratio"], rows)

    def _size(self, case: Case) -> int:
        if case.is_slow:
            return max(2, self._burst // _MUCH_SMALLER)
        if case.contender.compiles_each_time:
            return max(10, self._burst // _SMALLER)
        return self._burst


Measure = Latency | Throughput


def main() -> int:
    """Run the suite; 1 where a result is wrong or missing."""
    options = _options()
    # A benchmark that is told to stop must not leave its contenders behind.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    try:
        _run(options)
    except (WrongError, MissingError) as error:
        _say(f"error: {error}", sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    found = workloads.find()
    runnable = [one for one in found if isinstance(one, Workload)]
    left_out = [one for one in found if isinstance(one, LeftOut)]
    # Before the measurement: at its end the load would be that of the contenders themselves.
    about = machine(Path(options.dir))
    measures: list[Measure] = [Latency(options.drops), Throughput(options.burst)]
    with (
        tempfile.TemporaryDirectory(dir=options.dir, prefix="wasmdrop-benchmark-") as base,
        _cases(Path(base).resolve(), runnable) as cases,
    ):
        for case in cases:
            with _awake(case):
                for _ in range(_WARM_UP):
                    case.drop()
        for measure in measures:
            for number in range(measure.rounds):
                for case in cases:
                    with _awake(case):
                        measure.step(case, number)
    _say(", ".join(f"{name} {value}" for name, value in about.items()))
    for measure in measures:
        _say(f"\n{measure.title}\n\n{measure.report(cases)}")
    for one in left_out:
        _say(f"\nleft out: {one.name}: {one.reason}")
    if options.json is not None:
        options.json.write_text(json.dumps(_record(about, cases, left_out), indent=1) + "\n")


@contextlib.contextmanager
def _cases(base: Path, runnable: Sequence[Workload]) -> Iterator[list[Case]]:
    """Start every contender and give the cases, those of one workload side by side."""
    modules = {one.module_name: one.module for one in runnable}
    with contextlib.ExitStack() as stack:
        running = []
        for kind in contenders.ALL:
            contender = kind(base, modules)
            stack.callback(contender.stop)
            contender.start()
            contender.pause()
            client = Client(contender.shared)
            stack.callback(client.close)
            running.append((contender, client))
        yield [Case(*pair, workload) for workload in runnable for pair in running]


@contextlib.contextmanager
def _awake(case: Case) -> Iterator[None]:
    case.contender.resume()
    try:
        yield
    finally:
        case.contender.pause()


def _stages(latency: float, dropped_at: float, marker: dict[str, Any]) -> dict[str, float]:
    """Return where the time of one drop went, in seconds, in the order of what happened.

    ``sandbox`` is what lies between the job's start and its end beside the run itself: handing it
    to its process and hearing of the results.
    """
    seconds = marker["seconds"]
    noticed_at = datetime.fromisoformat(marker["dropped_at"]).timestamp()
    noticed = noticed_at - dropped_at
    queued, compiled, ran, total = (
        float(seconds[name]) for name in ("queued", "compile", "run", "total")
    )
    return {
        "noticed": noticed,
        "queued": queued,
        "compile": compiled,
        "sandbox": total - queued - compiled - ran,
        "run": ran,
        "total": total,
        "delivered": latency - noticed - total,
        "all": latency,
    }


def _rate(case: Case) -> float:
    return statistics.median(size / seconds for size, seconds in case.bursts)


def _ratio(case: Case, cases: Sequence[Case], cost: Any) -> str:
    """Return how many times the first contender's cost this is, on the same workload."""
    first = next(one for one in cases if one.workload is case.workload)
    return f"{cost(case) / cost(first):.1f}"


def machine(directory: Path) -> dict[str, str]:
    """Return what a run was measured on, by name."""
    versions = {name: importlib.metadata.version(name) for name in ("wasmdrop", "wasmtime")}
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cores": str(len(os.sched_getaffinity(0))),
        "Linux": platform.release(),
        "Python": platform.python_version(),
        **versions,
        "filesystem": _filesystem(directory.resolve()),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def _filesystem(directory: Path) -> str:
    """Return the type of the filesystem of ``directory`` (proc_pid_mountinfo(5))."""
    kinds = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        kinds[before.split()[4]] = after.split()[0]
    return next(kinds[str(one)] for one in (directory, *directory.parents) if str(one) in kinds)


def _record(
    about: dict[str, str], cases: Sequence[Case], left_out: Sequence[LeftOut]
) -> dict[str, Any]:
    return {
        "about": about,
        "cases": [
            {
                "module": case.workload.name,
                "contender": case.contender.name,
                "latency_seconds": case.latencies,
                "stage_seconds": case.stages,
                "bursts": [{"slots": size, "seconds": seconds} for size, seconds in case.bursts],
            }
            for case in cases
        ],
        "left_out": [{"module": one.name, "reason": one.reason} for one in left_out],
    }


def _options() -> argparse.Namespace:
    def count(text: str) -> int:
        number = int(text)
        if number < 1:
            raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
        return number

    parser = argparse.ArgumentParser(
        description="Measure wasmdrop against scripts that do the same.", prog="latency.py"
    )
    parser.add_argument("--drops", type=count, default=100, metavar="N", help="drops, one by one")
    parser.add_argument("--burst", type=count, default=1000, metavar="N", help="slots of a burst")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every measured value")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path.cwd(),
        metavar="DIR",
        help="where the temporary directory goes: on the disk to be measured (default: here)",
    )
    return parser.parse_args()


def _say(text: str, stream: Any = None) -> None:
    (stream or sys.stdout).write(text + "\n")
    (stream or sys.stdout).flush()
