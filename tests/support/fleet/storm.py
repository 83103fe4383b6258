"""The storm on a fleet: faults at random moments while jobs are dropped, and then a check.

``python -m tests.support.fleet.storm --jobs 20000 --faults 60``, or ``make torture-fleet``. Prints
a table; the exit status is 1 if there were faults. Needs root.

Two daemons share three workers and a cluster of servers: the first runs jobs itself while it can't
reach the fleet, the second waits. The seed determines the jobs and the faults; what a fault hits
depends on the machine. The judge is the checker of :mod:`tests.support.durability.checker`; beyond
it, no innocent job may have more attempts than the deaths of its daemon explain, the jobs of the
second daemon ran on workers, and everything ends within a bound after the last fault.
"""

# ruff: noqa: T201 - a command that prints

import argparse
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.durability.checker import (
    Finding,
    Kind,
    check,
    check_slot_now,
    is_at_rest,
    job_count,
    open_count,
)
from tests.support.fleet.executioner import Executioner
from tests.support.fleet.faults import Kind as FaultKind
from tests.support.fleet.faults import Role, Step, play, schedule
from tests.support.fleet.job_mix import JobMix
from tests.support.fleet.machines import Fleet, FleetDaemon, events_in, fleet

#: The daemon that runs jobs itself while it can't reach the fleet, and the one that waits.
_LOCAL: Final = "local"
_WAITING: Final = "waiting"

#: Settings of the daemons. The attempts are many because a kill of the first daemon ends those that
#: run on its machine; the timeout is long because endless jobs are killed before.
_SETTINGS: Final = {
    _LOCAL: {
        "WASMDROP_FLEET_FALLBACK": "local",
        "WASMDROP_ATTEMPTS": "10",
        "TIMEOUT_SEC": "300",
    },
    _WAITING: {"WASMDROP_FLEET_FALLBACK": "wait", "TIMEOUT_SEC": "300"},
}

#: Codes of jobs that ran.
_RAN: Final = frozenset({"ok", "trap", "timeout"})

#: Jobs that a daemon may have open: more of them would make all wait the longer.
_OPEN: Final = 500
_BURST: Final = 20
_TICK_SECONDS: Final = 0.2
_SETTLE_SECONDS: Final = 0.5

#: How long nothing may change after the last fault, in seconds, before open jobs count as lost.
_IDLE_SECONDS: Final = 150


@dataclass
class Report:
    """The result of a storm."""

    seed: int
    drops: int = 0
    jobs: int = 0
    delivered: int = 0
    runs: int = 0
    """Runs that workers began, as far as they were seen."""
    reruns: int = 0
    """Those of a publication that a worker had begun before."""
    longest_seconds: float = 0.0
    """From a drop to its results, of those that are in place."""
    rest_seconds: float = 0.0
    """From the end of the last fault to the end of the last job."""
    kills: Counter[Role] = field(default_factory=Counter)
    stops: int = 0
    partitions: int = 0
    wipes: int = 0
    restarts: int = 0
    """Workers and daemons that ended by themselves, and were started again."""
    by_worker: Counter[str] = field(default_factory=Counter)
    """Results in place, by who ran the job."""
    looks: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    """Faults that the programs report of themselves."""

    def __str__(self) -> str:
        found = Counter(finding.kind for finding in self.findings)
        rows = {
            "seed": self.seed,
            "jobs dropped": self.drops,
            "jobs accepted": self.jobs,
            "jobs delivered": self.delivered,
            **{str(kind): found[kind] for kind in Kind},
            "runs begun by workers": self.runs,
            "reruns": self.reruns,
            "longest wait": f"{self.longest_seconds:.1f} s",
            "at rest after the last fault": f"{self.rest_seconds:.1f} s",
            **{f"kills of {role}s": self.kills[role] for role in Role},
            "stops": self.stops,
            "partitions": self.partitions,
            "wipes": self.wipes,
            "ended by themselves": self.restarts,
            "looks at markers": self.looks,
            "results by worker": dict(sorted(self.by_worker.items())),
            "errors logged": dict(self.errors),
            "time": f"{self.seconds:.0f} s",
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


@dataclass(frozen=True)
class Plan:
    """The size of a storm."""

    seed: int
    jobs: int
    steps: list[Step]
    servers: int = 3
    poison: int = 0
    """Jobs whose process is killed whenever it runs."""
    deadly: int = 0
    """Jobs whose worker is killed whenever it runs."""


def storm(base: Path, plan: Plan) -> Report:
    """Run a storm in the directory ``base``."""
    began = time.monotonic()
    report = Report(plan.seed)
    with fleet(base, servers=plan.servers, daemons=_SETTINGS) as made:
        _Storm(made, plan, report).run()
    report.seconds = time.monotonic() - began
    return report


class _Storm:
    def __init__(self, made: Fleet, plan: Plan, report: Report) -> None:
        self._fleet = made
        self._plan = plan
        self._report = report
        self._mixes = {
            daemon.name: JobMix(daemon.producer, f"{daemon.name} {plan.seed}")
            for daemon in made.daemons
        }
        self._executioner = Executioner(made)
        self._done_steps = 0
        self._ended = threading.Event()

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._produce, args=(daemon,), name=daemon.name)
            for daemon in self._fleet.daemons
        ]
        consumer = threading.Thread(target=self._consume, name="consumer")
        for mix in self._mixes.values():
            mix.start()
        for thread in (*threads, consumer):
            thread.start()
        try:
            for step in self._plan.steps:
                print(step, flush=True)
                self._count(step)
                play(self._fleet, step, self._tick)
                self._done_steps += 1
            while any(thread.is_alive() for thread in threads):
                self._tick()
            self._settle()
        finally:
            self._ended.set()
            for thread in (*threads, consumer):
                thread.join()
        for daemon in self._fleet.daemons:
            self._judge(daemon)
        self._close()

    def _tick(self) -> None:
        """Do what supervisors do, and what the endless jobs are there for."""
        self._fleet.tend()
        self._executioner.look()
        time.sleep(_TICK_SECONDS)

    def _produce(self, daemon: FleetDaemon) -> None:
        """Drop the daemon's share of the jobs, in step with the faults."""
        mix, plan = self._mixes[daemon.name], self._plan
        share = plan.jobs // len(self._fleet.daemons)
        specials = _specials(plan, share) if daemon.name == _WAITING else {}
        dropped = 0
        while dropped < share and not self._ended.is_set():
            goal = share * (self._done_steps + 1) / max(1, len(plan.steps))
            if dropped >= goal or dropped - _final_count(daemon) > _OPEN:
                time.sleep(_TICK_SECONDS)
                continue
            for _ in range(min(_BURST, share - dropped)):
                special = specials.get(dropped)
                if special is None:
                    mix.drop()
                elif special == "poison":
                    mix.drop_poison()
                else:
                    mix.drop_deadly()
                dropped += 1
            time.sleep(_TICK_SECONDS / 2)
        self._report.drops += dropped

    def _settle(self) -> None:
        """Wait until all daemons are at rest, or nothing has changed for long."""
        began = changed = time.monotonic()
        seen: object = None
        while time.monotonic() - changed < _IDLE_SECONDS:
            self._tick()
            now = [(job_count(one.state), open_count(one.state)) for one in self._fleet.daemons]
            if now != seen:
                seen, changed = now, time.monotonic()
            elif all(not open_jobs for _jobs, open_jobs in now) and all(
                is_at_rest(daemon.evidence()) for daemon in self._fleet.daemons
            ):
                break
            time.sleep(_SETTLE_SECONDS)
        self._report.rest_seconds = time.monotonic() - began

    def _judge(self, daemon: FleetDaemon) -> None:
        """Stop a daemon and check what it leaves."""
        report = self._report
        status = daemon.stop()
        if status != 0:
            report.findings.append(Finding(Kind.WRONG, daemon.name, f"ended with {status}"))
        evidence = daemon.evidence()
        evidence.most_attempts = 1 + (daemon.kills if daemon.name == _LOCAL else 0)
        report.findings += check(evidence)
        report.jobs += job_count(daemon.state)
        for slot, marker in _markers(daemon):
            report.delivered += 1
            report.longest_seconds = max(report.longest_seconds, marker["seconds"]["total"])
            report.by_worker[marker["worker"] or "none"] += 1
            if daemon.name == _WAITING and marker["code"] in _RAN and marker["worker"] is None:
                report.findings.append(Finding(Kind.WRONG, slot, "did not run on a worker"))
        for event in events_in(daemon.logs()):
            if event["level"] in {"error", "critical"}:
                report.errors[f"{daemon.name}: {event['event']}"] += 1

    def _close(self) -> None:
        """End the workers and add up what they and the faults did."""
        report = self._report
        tickets = self._fleet.begun.read_text().split()
        report.runs, report.reruns = len(tickets), len(tickets) - len(set(tickets))
        report.kills[Role.WORKER] += self._executioner.worker_kills
        for worker in self._fleet.workers:
            status = worker.stop()
            if status != 0:
                report.findings.append(Finding(Kind.WRONG, worker.name, f"ended with {status}"))
            for event in worker.events():
                if event["level"] in {"error", "critical"}:
                    report.errors[f"{worker.name}: {event['event']}"] += 1
        report.restarts = sum(node.restarts for node in self._fleet.nodes)

    def _count(self, step: Step) -> None:
        report = self._report
        for fault in step.faults:
            match fault.kind:
                case FaultKind.KILL:
                    report.kills[fault.role] += len(fault.numbers)
                case FaultKind.STOP:
                    report.stops += 1
                case FaultKind.UNPLUG | FaultKind.FLAP | FaultKind.ISOLATE:
                    report.partitions += 1
                case FaultKind.WIPE:
                    report.kills[fault.role] += len(fault.numbers)
                    report.wipes += 1
                case FaultKind.TERMINATE:
                    pass

    def _consume(self) -> None:
        """Check the markers all the time, as consumers do."""
        while not self._ended.wait(_SETTLE_SECONDS):
            for daemon in self._fleet.daemons:
                for name in list(daemon.producer.slots)[-_OPEN:]:
                    found = check_slot_now(daemon.shared, name)
                    self._report.looks += 1
                    if found is not None:
                        self._report.findings.append(found)


def _specials(plan: Plan, share: int) -> dict[int, str]:
    """Return at which drops the jobs are that have something killed."""
    kinds = ["poison"] * plan.poison + ["deadly"] * plan.deadly
    return {share * (2 * number + 1) // (2 * len(kinds)): kind for number, kind in enumerate(kinds)}


def _final_count(daemon: FleetDaemon) -> int:
    return job_count(daemon.state) - open_count(daemon.state)


def _markers(daemon: FleetDaemon) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the markers in place, by the name of the input."""
    for name in daemon.producer.slots:
        marker = daemon.marker(name)
        if marker is not None:
            yield name, marker


def main() -> int:
    """Run the storm of the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="let a fleet fail again and again, then check")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    options = parser.parse_args()
    sizes = {Role.SERVER: options.servers, Role.WORKER: 3, Role.DAEMON: 2}
    steps = schedule(options.seed, options.faults, sizes)
    plan = Plan(options.seed, options.jobs, steps, options.servers, poison=6, deadly=2)
    print(f"seed {options.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="wasmdrop-fleet-storm-"))
    report = storm(directory, plan)
    print(report)
    if report.findings:
        print(f"directories kept for inspection: {directory}")
    else:
        shutil.rmtree(directory)
    for finding in report.findings[:50]:
        print(f"{finding.kind}: {finding.where}: {finding.what}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
