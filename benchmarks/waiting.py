"""Jobs that only wait: whether anything but the workers and the processor limits their rate."""

import os
import statistics
from pathlib import Path
from typing import Final

from benchmarks.client import Client, drop_all
from benchmarks.contenders import Wasmdrop
from benchmarks.tables import milliseconds, render
from benchmarks.usage import cpu_seconds_by_kind
from benchmarks.workloads import SLEEP_SECONDS, Workload, sleeping

#: Numbers of workers, each of a daemon of its own.
_WORKERS: Final = (4, 16, 64)

#: Jobs of each worker in a burst.
_JOBS_EACH: Final = 10
_WARM_UP: Final = 8


class _ManyWorkers(Wasmdrop):
    def __init__(self, base: Path, workload: Workload, workers: int) -> None:
        super().__init__(base / f"workers{workers}", {workload.module_name: workload.module})
        self.name = f"wasmdrop, {workers} workers"
        self._workers = workers

    def variables(self) -> dict[str, str]:
        """Return the directories, and the number of workers."""
        return super().variables() | {"WASMDROP_WORKERS": str(self._workers)}


class Waiting:
    """Daemons with more workers than cores, whose jobs sleep."""

    title = f"Jobs that sleep for {SLEEP_SECONDS * 1e3:.0f} ms, with more workers than cores"

    def __init__(self, base: Path) -> None:
        self._workload = sleeping()
        self._daemons = {each: _ManyWorkers(base, self._workload, each) for each in _WORKERS}
        self._clients: dict[int, Client] = {}
        self._serial = 0
        self._rates: dict[int, list[float]] = {each: [] for each in _WORKERS}
        self._cpu: dict[int, list[float]] = {each: [] for each in _WORKERS}

    @property
    def daemons(self) -> list[Wasmdrop]:
        """Return the daemons."""
        return list(self._daemons.values())

    def start(self) -> None:
        """Start the daemons and compile the module."""
        for workers, daemon in self._daemons.items():
            daemon.start()
            self._clients[workers] = Client(daemon.shared)
            self._burst(workers, _WARM_UP)

    def close(self) -> None:
        """Stop the daemons that were started."""
        for client in self._clients.values():
            client.close()
        for daemon in self._daemons.values():
            daemon.stop()

    def step(self) -> None:
        """Measure one burst of each."""
        for workers, daemon in self._daemons.items():
            jobs = workers * _JOBS_EACH
            before = sum(cpu_seconds_by_kind(daemon.pid).values())
            seconds = self._burst(workers, jobs)
            after = sum(cpu_seconds_by_kind(daemon.pid).values())
            self._rates[workers].append(jobs / seconds)
            self._cpu[workers].append((after - before) / jobs)

    def _burst(self, workers: int, jobs: int) -> float:
        daemon = self._daemons[workers]
        numbers = range(self._serial, self._serial + jobs)
        self._serial += jobs
        inputs = {f"input-{number}.json": self._workload.input(number) for number in numbers}
        seconds = drop_all([(self._clients[workers], inputs)])
        for name, content in inputs.items():
            daemon.check(name, content, self._workload.wanted(0))
        return seconds

    def report(self) -> str:
        """Return the table."""
        rows = []
        cores = len(os.sched_getaffinity(0))
        for workers in _WORKERS:
            rate, cpu = (statistics.median(one[workers]) for one in (self._rates, self._cpu))
            ideal = workers / SLEEP_SECONDS
            rows.append(
                [
                    str(workers),
                    str(workers * _JOBS_EACH),
                    f"{ideal:,.0f}",
                    f"{rate:,.1f}",
                    f"{rate / ideal:.2f}",
                    milliseconds(cpu),
                    f"{rate * cpu:.2f} of {cores}",
                ]
            )
        head = ["workers", "jobs", "workers / sleep, jobs a second", "reached, jobs a second"]
        head += ["share", "processor ms a job", "cores busy"]
        return render(head, rows, words=0)
