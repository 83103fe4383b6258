#!/usr/bin/env python3
"""Measure a fleet on this machine: beside a daemon that runs its jobs itself, and as it grows.

python benchmarks/fleet.py [--drops N] [--burst N] [--rounds N] [--slots N] [--dir DIR]

Servers, daemons and workers share the cores of this machine. So jobs that compute can't get faster,
and the scaling is measured with jobs that wait. Each number of workers is a pool and a daemon of
its own.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    # Started by its path, Python searches only beside this file, and the parts are one package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tests.support.fleet.ready import SIZES, set_up
from tests.support.fleet.server import Server, running_server

from benchmarks import workloads
from benchmarks.client import Client, drop_all
from benchmarks.contenders import Wasmdrop, WrongError
from benchmarks.suite import described
from benchmarks.tables import milliseconds, quantile, render
from benchmarks.usage import cpu_seconds_with_ended
from benchmarks.workloads import Wanted, Workload
from wasmdrop.fleet.admin.setup import Plan

_POOLS: Final = (1, 2, 3)
"""Workers of each pool."""

_WAIT_SECONDS: Final = (0.003, 0.03, 0.3)

#: Single drops of one contender in turn, and jobs of each slot in a burst of jobs that wait.
_TURN: Final = 10
_WARM_UP: Final = 20
_JOBS_EACH: Final = 100
_LONG_JOBS_EACH: Final = 20
_LONG_SECONDS: Final = 0.1

#: Processes of the last jobs end, and idle children replace them.
_LINGER_SECONDS: Final = 0.2


class Worker(Wasmdrop):
    """A worker of a pool."""

    def __init__(self, base: Path, server: Server, pool: str, name: str, slots: int) -> None:
        super().__init__(base / name, {})
        self.name = name
        self._fleet = _variables(server, pool, name) | {"WASMDROP_WORKERS": str(slots)}

    def command(self) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-m", "wasmdrop", "work"]

    def variables(self) -> dict[str, str]:
        """Return the fleet and the state directory."""
        return self._fleet | {"WASMDROP_STATE_DIR": str(self.base / "state")}


class FleetDaemon(Wasmdrop):
    """A daemon whose jobs are run by the workers of a pool."""

    def __init__(
        self, base: Path, modules: dict[str, bytes], server: Server, workers: int, slots: int
    ) -> None:
        pool = f"pool{workers}"
        super().__init__(base / pool, modules)
        self.name = f"fleet, {workers} worker" + "s" * (workers > 1)
        self.server = server
        self._fleet = _variables(server, pool, pool) | {"WASMDROP_FLEET_FALLBACK": "wait"}
        self.workers = [
            Worker(base, server, pool, f"{pool}-{number}", slots) for number in range(workers)
        ]

    def variables(self) -> dict[str, str]:
        """Return the directories and the fleet."""
        return super().variables() | self._fleet

    def start(self) -> None:
        """Start the daemon and the workers."""
        super().start()
        for worker in self.workers:
            worker.start()

    def stop(self) -> None:
        """Stop the workers and the daemon."""
        for worker in self.workers:
            worker.stop()
        super().stop()

    def troubles(self) -> list[str]:
        """Return the events of all logs that make the figures doubtful."""
        return [event for each in self.workers for event in each.troubles()] + super().troubles()

    def check(self, name: str, content: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
        """Check the result, and that a worker of the pool ran the job."""
        marker = super().check(name, content, wanted)
        if marker["worker"] not in {worker.name for worker in self.workers}:
            raise WrongError(f"{self.name}: {name} was run by {marker['worker']}")
        return marker


def _variables(server: Server, pool: str, name: str) -> dict[str, str]:
    return {
        "WASMDROP_FLEET": server.url,
        "WASMDROP_FLEET_POOL": pool,
        "WASMDROP_FLEET_NAME": name,
    }


@dataclass(frozen=True)
class Burst:
    """One burst, and the processor time that it took, by role."""

    jobs: int
    seconds: float
    cpu_seconds: dict[str, float]

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return self.jobs / self.seconds


@dataclass
class Case:
    """A daemon with one workload, and its measurements."""

    daemon: Wasmdrop
    client: Client
    workload: Workload
    latencies: list[float] = field(default_factory=list)
    bursts: list[Burst] = field(default_factory=list)
    _serial: int = 0

    def drop(self) -> None:
        """Measure one drop."""
        ((name, content),) = self._next(1).items()
        self.latencies.append(self.client.drop(name, content)[0])
        self._check({name: content}, self._serial - 1)

    def burst(self, jobs: int) -> Burst:
        """Drop many inputs at once and check all results."""
        first = self._serial
        inputs = self._next(jobs)
        before = _cpu_by_role(self.daemon)
        seconds = drop_all([(self.client, inputs)])
        time.sleep(_LINGER_SECONDS)
        after = _cpu_by_role(self.daemon)
        self._check(inputs, first)
        return Burst(jobs, seconds, {role: after[role] - before[role] for role in after})

    def _next(self, jobs: int) -> dict[str, dict[str, Any]]:
        numbers = range(self._serial, self._serial + jobs)
        self._serial += jobs
        name = self.workload.module_name
        return {f"input-{name}-{number}.json": self.workload.input(number) for number in numbers}

    def _check(self, inputs: dict[str, dict[str, Any]], first: int) -> None:
        for number, (name, content) in enumerate(inputs.items(), first):
            self.daemon.check(name, content, self.workload.wanted(number))


def _cpu_by_role(daemon: Wasmdrop) -> dict[str, float]:
    """Return the processor time so far of a daemon and, if it has them, server and workers."""
    seconds = {"daemon": cpu_seconds_with_ended(daemon.pid), "server": 0.0, "workers": 0.0}
    if isinstance(daemon, FleetDaemon):
        seconds["server"] = cpu_seconds_with_ended(daemon.server.pid)
        seconds["workers"] = sum(cpu_seconds_with_ended(each.pid) for each in daemon.workers)
    return seconds


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Measure a fleet on this machine.")
    parser.add_argument("--drops", type=int, default=300, metavar="N", help="single drops of each")
    parser.add_argument("--burst", type=int, default=500, metavar="N", help="slots of a burst")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="bursts of each")
    parser.add_argument("--slots", type=int, default=2, metavar="N", help="of each worker")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="on the disk to be measured")
    options = parser.parse_args()
    # A benchmark that is stopped must not leave its processes running.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    about = described(options.dir)
    with (
        tempfile.TemporaryDirectory(dir=options.dir, prefix="wasmdrop-benchmark-") as name,
        running_server(Path(name).resolve() / "server") as server,
    ):
        pools = tuple(f"pool{workers}" for workers in _POOLS)
        with contextlib.redirect_stdout(sys.stderr):  # log lines are no part of the tables
            asyncio.run(set_up(server, Plan(daemons=pools, pools=pools, engines=(), sizes=SIZES)))
        with _daemons(Path(name).resolve(), server, options.slots) as daemons:
            beside = _measure_beside(daemons[:2], options)
            growing = _measure_growing(daemons[1:], options)
        troubles = [
            f"\nfigures are doubtful: {each.name} logged {event}\n"
            for each in daemons
            for event in each.troubles()
        ]
    cores = len(os.sched_getaffinity(0))
    sys.stdout.write(
        f"{about}, nats-server with one replica\n\n### Local and fleet\n\n{report_beside(beside)}\n"
        f"\n### Jobs that wait, workers with {options.slots} slots each\n\n"
        f"{report_growing(growing, options.slots, cores)}\n" + "".join(troubles)
    )
    return 0


@contextlib.contextmanager
def _daemons(base: Path, server: Server, slots: int) -> Iterator[list[Wasmdrop]]:
    """Give a local daemon with as many slots as a worker, and one for each pool."""
    modules = {each.module_name: each.module for each in _all_workloads()}
    local = _Local(base, modules)
    local.slots = slots
    daemons: list[Wasmdrop] = [local]
    daemons += [FleetDaemon(base, modules, server, workers, slots) for workers in _POOLS]
    with contextlib.ExitStack() as stack:
        for daemon in daemons:
            stack.callback(daemon.stop)
            daemon.start()
        yield daemons


class _Local(Wasmdrop):
    name = "local"
    slots = 0

    def variables(self) -> dict[str, str]:
        """Return the directories and the number of slots."""
        return super().variables() | {"WASMDROP_WORKERS": str(self.slots)}


def _all_workloads() -> list[Workload]:
    small = [one for one in workloads.find() if one.name in {"fib", "hello"}]
    return [one for one in small if isinstance(one, Workload)] + [
        workloads.sleeping(seconds) for seconds in _WAIT_SECONDS
    ]


@contextlib.contextmanager
def _cases(daemons: Sequence[Wasmdrop], work: Sequence[Workload]) -> Iterator[list[Case]]:
    with contextlib.ExitStack() as stack:
        cases = []
        for one in work:
            for daemon in daemons:
                client = Client(daemon.shared)
                stack.callback(client.close)
                cases.append(Case(daemon, client, one))
                cases[-1].burst(_WARM_UP)
        yield cases


def _measure_beside(daemons: Sequence[Wasmdrop], options: argparse.Namespace) -> list[Case]:
    with _cases(daemons, _all_workloads()[: -len(_WAIT_SECONDS)]) as cases:
        for number in range(options.drops // _TURN):
            _say(f"single drops: {(number + 1) * _TURN} of {options.drops}")
            for case in cases:
                for _ in range(_TURN):
                    case.drop()
        for number in range(options.rounds):
            _say(f"bursts: {number + 1} of {options.rounds}")
            for case in cases:
                case.bursts.append(case.burst(options.burst))
        return cases


def _measure_growing(daemons: Sequence[Wasmdrop], options: argparse.Namespace) -> list[Case]:
    with _cases(daemons, _all_workloads()[-len(_WAIT_SECONDS) :]) as cases:
        for number in range(options.rounds):
            _say(f"jobs that wait: {number + 1} of {options.rounds}")
            for case, (seconds, workers) in zip(cases, _growing(), strict=True):
                each = _LONG_JOBS_EACH if seconds >= _LONG_SECONDS else _JOBS_EACH
                case.bursts.append(case.burst(each * options.slots * workers))
        return cases


def _growing() -> list[tuple[float, int]]:
    return [(seconds, workers) for seconds in _WAIT_SECONDS for workers in _POOLS]


def report_beside(cases: Sequence[Case]) -> str:
    """Return the table of the fleet beside the local daemon, which comes first."""
    rows = []
    for case in cases:
        local = next(one for one in cases if one.workload is case.workload)
        median, of_local = (statistics.median(one.latencies) for one in (case, local))
        rate, rate_of_local = (_rate(one) for one in (case, local))
        cpu = _cpu_a_job(case)
        rows.append(
            [
                case.workload.name,
                case.daemon.name,
                milliseconds(median),
                milliseconds(quantile(case.latencies, 0.99)),
                milliseconds(median - of_local),
                f"{rate:,.0f}",
                f"{rate / rate_of_local:.2f}",
                *(milliseconds(seconds or None) for seconds in cpu.values()),
                milliseconds(sum(cpu.values())),
            ]
        )
    head = ["module", "who", "median ms", "p99 ms", "added ms", "burst, jobs a second", "ratio"]
    head += [f"processor ms a job: {role}" for role in _cpu_a_job(cases[0])]
    return render([*head, "all"], rows)


def report_growing(cases: Sequence[Case], slots: int, cores: int) -> str:
    """Return the table of rates by number of workers."""
    rows = []
    for case, (seconds, workers) in zip(cases, _growing(), strict=True):
        first = cases[_growing().index((seconds, _POOLS[0]))]
        rate, cpu = _rate(case), sum(_cpu_a_job(case).values())
        rows.append(
            [
                f"{seconds * 1e3:g} ms",
                str(workers),
                str(case.bursts[0].jobs),
                f"{workers * slots / seconds:,.1f}",
                f"{rate:,.1f}",
                f"{rate / _rate(first) / workers:.2f}",
                milliseconds(cpu),
                f"{rate * cpu:.2f} of {cores}",
            ]
        )
    head = ["job", "workers", "jobs", "slots / job, jobs a second", "reached, jobs a second"]
    head += ["of linear", "processor ms a job", "cores busy"]
    return render(head, rows, words=0)


def _rate(case: Case) -> float:
    return statistics.median(burst.rate for burst in case.bursts)


def _cpu_a_job(case: Case) -> dict[str, float]:
    """Return the processor time of a job by role, over all bursts."""
    jobs = sum(burst.jobs for burst in case.bursts)
    return {
        role: sum(burst.cpu_seconds[role] for burst in case.bursts) / jobs
        for role in case.bursts[0].cpu_seconds
    }


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
