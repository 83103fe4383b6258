"""The measures: each exercises a contender and returns a table.

A measure has ``rounds``, ``takes``, which selects its cases, ``step``, called once a round for each
of them, and ``report``.
"""

import contextlib
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from benchmarks.client import Client, drop_all
from benchmarks.contenders import Contender
from benchmarks.tables import milliseconds, quantile, render
from benchmarks.usage import cpu_seconds_by_kind
from benchmarks.workloads import Wanted, Workload

#: Drops of one contender per turn, one after the other: few enough that other load on the machine
#: affects all contenders alike.
_TURN: Final = 10

#: A contender that needs a second for each job takes part in one of so many rounds, and with fewer
#: drops; one that starts a Python for each job takes part in one of so many.
_SLOW_EVERY: Final = 15
_SLOW_TURN: Final = 5
_STARTING_EVERY: Final = 5

#: Drops per second at a steady rate.
_A_SECOND: Final = 50

#: Bursts of each case, in turns; the table shows the median. One that starts a Python for each job
#: takes part in one of so many.
_BURSTS: Final = 5
_STARTING_BURSTS_EVERY: Final = 3

#: Divisors of a burst for contenders that start a Python per job, and that also compile for long.
_SMALLER: Final = 20
_MUCH_SMALLER: Final = 100

#: Each has an inotify instance, of which a user commonly has 128.
_DIRECTORIES: Final = 50
_SETTLE_SECONDS: Final = 1.0
_LINGER_SECONDS: Final = 0.2


@dataclass
class Case:
    """One contender with one workload, and its measurements."""

    contender: Contender
    client: Client
    workload: Workload
    drops: int = 0
    latencies: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    steady: list[float] = field(default_factory=list)
    bursts: list[tuple[int, float]] = field(default_factory=list)
    spread: list[tuple[int, float]] = field(default_factory=list)
    cpu_seconds: list[dict[str, float]] = field(default_factory=list)
    """Processor time of each burst by kind of process."""

    @property
    def is_slow(self) -> bool:
        """Return whether each job takes long on any machine."""
        return self.contender.compiles_each_time and self.workload.slow_elsewhere

    @property
    def every(self) -> int:
        """Return the number of rounds of which it takes part in one."""
        if self.is_slow:
            return _SLOW_EVERY
        return _STARTING_EVERY if self.contender.compiles_each_time else 1

    def next_input(self) -> tuple[str, dict[str, Any], Wanted]:
        """Return an unused name, an input, and its expected result."""
        self.drops += 1
        name = f"input-{self.workload.module_name}-{self.drops}.json"
        return name, self.workload.input(self.drops), self.workload.wanted(self.drops)

    def drop(self) -> tuple[float, float, dict[str, Any]]:
        """Drop one input and check the result; return latency, time of the drop, and marker."""
        name, content, wanted = self.next_input()
        latency, dropped_at = self.client.drop(name, content)
        return latency, dropped_at, self.contender.check(name, content, wanted)


class Latency:
    """Drop to marker, one drop after the other, each into a slot of its own."""

    title = "Drop to marker, one after the other, ms"

    def __init__(self, drops: int) -> None:
        self.rounds = math.ceil(drops / _TURN)

    def takes(self, _case: Case) -> bool:
        """Return whether the case is measured: all are."""
        return True

    def step(self, case: Case, number: int) -> None:
        """Measure one turn."""
        if number % case.every:
            return
        for _ in range(_SLOW_TURN if case.is_slow else _TURN):
            latency, dropped_at, marker = case.drop()
            case.latencies.append(latency)
            if case.contender.tells:
                case.stages.append(_stages(latency, dropped_at, marker))

    def report(self, cases: Sequence[Case]) -> str:
        """Return the table of latencies and that of the stages."""
        rows = [
            [
                *_latency_row(case, case.latencies),
                _ratio(case, cases, lambda one: statistics.median(one.latencies)),
            ]
            for case in cases
        ]
        head = ["module", "who", "drops", "median", "p95", "p99", "min", "ratio"]
        return f"{render(head, rows)}\n\n{self._report_stages(cases)}"

    @staticmethod
    def _report_stages(cases: Sequence[Case]) -> str:
        told = [case for case in cases if case.stages]
        names = list(told[0].stages[0])
        rows = []
        for case in told:
            medians = (statistics.median(one[name] for one in case.stages) for name in names)
            rows.append([case.workload.name, case.contender.name, *map(milliseconds, medians)])
        title = "Where wasmdrop's time goes, from its markers, medians in ms"
        return f"{title}\n\n{render(['module', 'who', *names], rows)}"


class Steady:
    """A fixed rate of drops, each at its time, whether the one before has finished or not."""

    title = f"Drop to marker at a steady {_A_SECOND} drops a second, ms"

    def __init__(self, drops: int) -> None:
        self.rounds = max(1, drops // _A_SECOND)

    def takes(self, case: Case) -> bool:
        """Return whether the case is measured: the first workload, if the contender can keep up."""
        is_first = case.workload.name == "fib"
        return is_first and not case.contender.compiles_each_time and not case.contender.is_variant

    def step(self, case: Case, _number: int) -> None:
        """Measure one second of drops."""
        began = time.perf_counter()
        for index in range(_A_SECOND):
            time.sleep(max(0.0, began + index / _A_SECOND - time.perf_counter()))
            case.steady.append(case.drop()[0])

    def report(self, cases: Sequence[Case]) -> str:
        """Return the table of latencies."""
        rows = [_latency_row(case, case.steady) for case in cases]
        return render(["module", "who", "drops", "median", "p95", "p99", "min"], rows)


class Throughput:
    """Many slots dropped at once."""

    title = "A burst of slots, jobs a second"

    def __init__(self, burst: int) -> None:
        self.rounds = _BURSTS
        self._burst = burst

    def takes(self, case: Case) -> bool:
        """Return whether the case is measured."""
        return case.workload.burst_divisor is not None

    def step(self, case: Case, number: int) -> None:
        """Drop one burst into one directory, for wasmdrop also into many; check every result."""
        if number % (_BURSTS if case.is_slow else self._every(case)):
            return
        drops = [case.next_input() for _ in range(self._size(case))]
        inputs = {name: content for name, content, _wanted in drops}
        before = cpu_seconds_by_kind(case.contender.pid)
        seconds = drop_all([(case.client, inputs)])
        # Processes of the last jobs end, and idle children replace them.
        time.sleep(_LINGER_SECONDS)
        after = cpu_seconds_by_kind(case.contender.pid)
        case.bursts.append((len(drops), seconds))
        case.cpu_seconds.append({kind: after[kind] - before[kind] for kind in after})
        for drop in drops:
            case.contender.check(*drop)
        if case.contender.tells and not case.contender.is_variant and case.workload.name == "fib":
            case.spread.append(self._spread(case))

    @staticmethod
    def _every(case: Case) -> int:
        return _STARTING_BURSTS_EVERY if case.contender.compiles_each_time else 1

    def _spread(self, case: Case) -> tuple[int, float]:
        """Do the same with many directories; return slots and seconds."""
        drops = [case.next_input() for _ in range(self._size(case))]
        shared = case.contender.shared
        with contextlib.ExitStack() as stack:
            batches = []
            for number in range(_DIRECTORIES):
                directory = shared / f"d{number}"
                directory.mkdir(exist_ok=True)
                client = Client(directory)
                stack.callback(client.close)
                contents = {name: content for name, content, _ in drops[number::_DIRECTORIES]}
                batches.append((client, contents))
            time.sleep(_SETTLE_SECONDS)  # the daemon scans a new directory first
            seconds = drop_all(batches)
        for number, (name, content, wanted) in enumerate(drops):
            case.contender.check(f"d{number % _DIRECTORIES}/{name}", content, wanted)
        return len(drops), seconds

    def report(self, cases: Sequence[Case]) -> str:
        """Return the table of jobs per second."""
        rows = [
            [
                case.workload.name,
                case.contender.name,
                str(case.bursts[0][0]),
                str(len(case.bursts)),
                f"{rate(case.bursts):,.1f}",
                _ratio(case, cases, lambda one: 1 / rate(one.bursts)),
                f"{rate(case.spread):,.1f}" if case.spread else "-",
            ]
            for case in cases
        ]
        many = f"in {_DIRECTORIES} directories"
        return render(["module", "who", "slots", "bursts", "median", "ratio", many], rows)

    def _size(self, case: Case) -> int:
        assert case.workload.burst_divisor is not None  # noqa: S101 - `takes` has seen to it
        size = self._burst // case.workload.burst_divisor
        if case.is_slow:
            size //= _MUCH_SMALLER
        elif case.contender.compiles_each_time:
            size //= _SMALLER
        return max(4, size)


def _stages(latency: float, dropped_at: float, marker: dict[str, Any]) -> dict[str, float]:
    """Return the stages of one drop in seconds, in their order.

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


def _latency_row(case: Case, values: Sequence[float]) -> list[str]:
    return [
        case.workload.name,
        case.contender.name,
        str(len(values)),
        *(milliseconds(quantile(values, share)) for share in (0.5, 0.95, 0.99)),
        milliseconds(min(values)),
    ]


def rate(bursts: Sequence[tuple[int, float]]) -> float:
    """Return the jobs per second of the median burst."""
    return statistics.median(size / seconds for size, seconds in bursts)


def _ratio(case: Case, cases: Sequence[Case], cost: Any) -> str:
    """Return the ratio of this case to the first contender with the same workload."""
    first = next(one for one in cases if one.workload is case.workload)
    return f"{cost(case) / cost(first):.1f}"
