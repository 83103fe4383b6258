"""The targets of the project beside what a run reached."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.contenders import DurableWarmScript, WarmScript, Wasmdrop
from benchmarks.measures import Case, rate
from benchmarks.processor_time import seconds_by_kind
from benchmarks.tables import render
from benchmarks.usage import CHILD, DELIVERY, FORK_SERVER, MAIN, ZYGOTE

TITLE: Final = "Targets"

#: Of the median and the burst of the warm script, with fsync and without.
_OF_DURABLE_MEDIAN: Final = 0.8
_OF_DURABLE_BURST: Final = 1.3
_OF_MEDIAN: Final = 1.3

#: Multiples of the time of fib that a job of each workload may take beside its own run.
_BESIDE_RUN: Final = {"WASI files": 1.8, "QuickJS": 1.8, "SQLite": 1.8, "component": 2.0}
#: The same with its own run.
_WITH_RUN: Final = {"WASI 100 kB": 2.0}

#: Processor milliseconds of a job.
_GUEST_MS: Final = {"fib": 0.6, "hello": 1.0}
_DAEMON_MS: Final = 0.6
_DELIVERY_MS: Final = 0.3


@dataclass(frozen=True)
class Target:
    """A limit, and the measured value."""

    module: str
    what: str
    limit: float
    reached: float
    is_least: bool = False
    """Whether the limit is the least value instead of the largest."""

    @property
    def is_met(self) -> bool:
        """Return whether the value is within the limit."""
        return self.reached >= self.limit if self.is_least else self.reached <= self.limit

    def cells(self) -> list[str]:
        """Return the row of the table."""
        sign, met = ("≥" if self.is_least else "≤"), ("yes" if self.is_met else "no")
        return [self.module, self.what, f"{sign} {self.limit:.2f}", f"{self.reached:.2f}", met]


def report(cases: Sequence[Case]) -> str:
    """Return the table of the targets whose cases were measured."""
    rows = [target.cells() for target in targets(cases)]
    return render(["module", "target", "limit", "reached", "met"], rows)


def targets(cases: Sequence[Case]) -> Iterator[Target]:
    """Yield the targets whose cases were measured."""
    found = {(type(case.contender), case.workload.name): case for case in cases}
    own = {name: case for (kind, name), case in found.items() if kind is Wasmdrop}
    for name in _GUEST_MS:
        durable, warm = found[DurableWarmScript, name], found[WarmScript, name]
        yield from _against_scripts(own[name], durable, warm)
    fib_ms = _median_ms(own["fib"])
    for name, case in own.items():
        if (times := _BESIDE_RUN.get(name)) is not None:
            run_ms = statistics.median(one["run"] for one in case.stages) * 1e3
            what = f"median, ms: own run of {run_ms:.2f} + {times:g} * fib"
            yield Target(name, what, run_ms + times * fib_ms, _median_ms(case))
        elif (times := _WITH_RUN.get(name)) is not None:
            yield Target(name, f"median, ms: {times:g} * fib", times * fib_ms, _median_ms(case))
    for name, guest_ms in _GUEST_MS.items():
        cpu_ms = {kind: value * 1e3 for kind, value in seconds_by_kind(own[name]).items()}
        of_guest = sum(cpu_ms[kind] for kind in (FORK_SERVER, ZYGOTE, CHILD))
        what = "fork server, zygotes, children: processor ms a job"
        yield Target(name, what, guest_ms, of_guest)
        yield Target(name, "daemon process: processor ms a job", _DAEMON_MS, cpu_ms[MAIN])
        yield Target(name, "delivery worker: processor ms a job", _DELIVERY_MS, cpu_ms[DELIVERY])


def _against_scripts(own: Case, durable: Case, warm: Case) -> Iterator[Target]:
    name, median_ms = own.workload.name, _median_ms(own)
    what = f"median, of that of the {durable.contender.name}"
    yield Target(name, what, _OF_DURABLE_MEDIAN, median_ms / _median_ms(durable))
    what = f"burst, of that of the {durable.contender.name}"
    burst = rate(own.bursts) / rate(durable.bursts)
    yield Target(name, what, _OF_DURABLE_BURST, burst, is_least=True)
    what = f"median, of that of the {warm.contender.name}"
    yield Target(name, what, _OF_MEDIAN, median_ms / _median_ms(warm))


def _median_ms(case: Case) -> float:
    return statistics.median(case.latencies) * 1e3
