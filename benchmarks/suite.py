"""The suite: starts the contenders, measures them in turns, prints the tables.

In turns, so that other load on the machine affects all contenders alike.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks import cost, lineup, processor_time, targets, workloads
from benchmarks.client import Client, MissingError, drop_all
from benchmarks.contenders import Wasmdrop, WrongError
from benchmarks.floor_rate import Floor
from benchmarks.measures import Case, Latency, Steady, Throughput, rate
from benchmarks.native import LackError, NativeRun
from benchmarks.native import build as build_native
from benchmarks.plots import bars
from benchmarks.waiting import Waiting
from benchmarks.workloads import LeftOut, Workload
from wasmdrop.sandbox.native_program import find_native_program

#: Drops before the measurement, each: modules compiled, pages read, children forked. Those that
#: stay warm also get a burst, so that all their processes do.
_WARM_UP: Final = 3
_WARM_UP_BURST: Final = 20

#: Rounds of bursts in which the others are measured, too: one of so many.
_OTHERS_EVERY: Final = 2

Measure = Latency | Steady | Throughput


def main() -> int:
    """Run the suite; return 1 if a result is wrong or missing."""
    options = _options()
    # A benchmark that is stopped must not leave its contenders running.
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
    about, heading = machine(options.dir), described(options.dir)
    measures: list[Measure] = [
        Latency(options.drops),
        Steady(options.drops),
        Throughput(options.burst),
    ]
    with (
        tempfile.TemporaryDirectory(dir=options.dir, prefix="wasmdrop-benchmark-") as name,
        _cases(base := Path(name).resolve(), runnable) as cases,
        contextlib.closing(Waiting(base)) as waiting,
    ):
        waiting.start()
        with_floor = [one for one in runnable if one.has_floor]
        floor = Floor(base, with_floor, _native(base, "fork_floor"))
        native = _native(base, "native")
        computing = next(one for one in runnable if one.name == "computing")
        run = None if native is None else NativeRun(native, computing, base)

        def between(measure: Measure, number: int) -> None:
            if isinstance(measure, Throughput) and number % _OTHERS_EVERY == 0:
                floor.step()
                waiting.step()
            elif isinstance(measure, Latency) and run is not None:
                run.step()

        _measure(cases, measures, between)
        remarks = _remarks(cases, waiting, left_out)
    _say(heading)
    whole = [case for case in cases if not case.contender.is_variant]
    bursts = [case for case in cases if case.bursts]
    _table(targets.TITLE, targets.report(cases))
    for measure in measures:
        _table(measure.title, measure.report(list(filter(measure.takes, whole))))
    _table(processor_time.TITLE, processor_time.report([one for one in whole if one.bursts]))
    _table(floor.title, floor.report(whole))
    _table(cost.TITLE, cost.report(bursts))
    _table(waiting.title, waiting.report())
    if run is not None:
        _table(run.title, run.report(cases))
    for remark in remarks:
        _say(f"\n{remark}")
    if options.plots is not None:
        _plot(whole, options.plots)
    if options.json is not None:
        options.json.write_text(json.dumps(_record(about, cases, left_out), indent=1) + "\n")


def _remarks(cases: Sequence[Case], waiting: Waiting, left_out: Sequence[LeftOut]) -> list[str]:
    daemons = {case.contender: None for case in cases}
    doubtful = [
        f"figures are doubtful: {daemon.name} logged {event}"
        for daemon in (*daemons, *waiting.daemons)
        for event in (daemon.troubles() if isinstance(daemon, Wasmdrop) else ())
    ]
    return doubtful + [f"left out: {one.name}: {one.reason}" for one in left_out]


def _table(title: str, text: str) -> None:
    _say(f"\n### {title}\n\n{text}")


def _measure(
    cases: Sequence[Case], measures: Sequence[Measure], between: Callable[[Measure, int], None]
) -> None:
    for case in cases:
        with _awake(case):
            for _ in range(_WARM_UP):
                case.drop()
            if not case.contender.compiles_each_time:
                drops = [case.next_input() for _ in range(_WARM_UP_BURST)]
                drop_all([(case.client, {name: content for name, content, _wanted in drops})])
    for measure in measures:
        for number in range(measure.rounds):
            _say(f"{measure.title}: {number + 1} of {measure.rounds}", sys.stderr)
            for case in filter(measure.takes, cases):
                with _awake(case):
                    measure.step(case, number)
            between(measure, number)


def _native(base: Path, name: str) -> Path | None:
    """Build a native program, or report why not."""
    try:
        return build_native(base, name)
    except LackError as lack:
        _say(f"left out: {name}: {lack}", sys.stderr)
        return None


@contextlib.contextmanager
def _cases(base: Path, runnable: Sequence[Workload]) -> Iterator[list[Case]]:
    """Start every contender and give the cases, grouped by workload."""
    modules = {one.module_name: one.module for one in runnable}
    with contextlib.ExitStack() as stack:
        running = []
        for kind in lineup.ALL:
            if lack := kind.lacks():
                _say(f"left out: {kind.name}: {lack}", sys.stderr)
                continue
            contender = kind(base, modules)
            stack.callback(contender.stop)
            contender.start()
            contender.pause()
            client = Client(contender.shared)
            stack.callback(client.close)
            running.append((contender, client))
        yield [
            Case(*pair, workload)
            for workload in runnable
            for pair in running
            if pair[0].takes(workload)
        ]


@contextlib.contextmanager
def _awake(case: Case) -> Iterator[None]:
    case.contender.resume()
    try:
        yield
    finally:
        case.contender.pause()


def _plot(cases: Sequence[Case], directory: Path) -> None:
    first = cases[0].workload
    fib = [case for case in cases if case.workload is first]
    latencies = {case.contender.name: statistics.median(case.latencies) * 1e3 for case in fib}
    rates = {case.contender.name: rate(case.bursts) for case in fib}
    stages = {
        name: statistics.median(one[name] for one in cases[0].stages) * 1e3
        for name in cases[0].stages[0]
    }
    for name, title, values in (
        ("latency", "Drop to marker of fib, median, ms", latencies),
        ("burst", "A burst of fib, jobs a second", rates),
        ("stages", "Where wasmdrop's time goes with fib, medians, ms", stages),
    ):
        (directory / f"{name}.svg").write_text(bars(title, values), encoding="utf-8")


def described(directory: Path) -> str:
    """Return the machine and versions of a run in one line."""
    return ", ".join(f"{name} {value}" for name, value in machine(directory).items())


def machine(directory: Path) -> dict[str, str]:
    """Return the properties of the machine of a run, by name."""
    versions = {name: importlib.metadata.version(name) for name in ("wasmdrop", "wasmtime")}
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cores": str(len(os.sched_getaffinity(0))),
        "Linux": platform.release(),
        "Python": platform.python_version(),
        **versions,
        "guest": "python" if find_native_program() is None else "native",
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
                "steady_seconds": case.steady,
                "bursts": [{"slots": size, "seconds": seconds} for size, seconds in case.bursts],
                "burst_cpu_seconds": case.cpu_seconds,
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
    parser.add_argument("--drops", type=count, default=300, metavar="N", help="drops, one by one")
    parser.add_argument("--burst", type=count, default=1000, metavar="N", help="slots of a burst")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="also draw them, as SVG, in DIR")
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
