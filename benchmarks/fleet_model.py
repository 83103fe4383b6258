#!/usr/bin/env python3
"""Compute what limits a fleet of up to 10,000 workers: which part is fully used first.

python benchmarks/fleet_model.py [--slots N] [--window N] [--replicas {1,3}] [--server-cores N]

Each part of a fleet has a cost per job and a load without jobs, both measured on one machine. From
them follows the rate of jobs with which the part is fully used. The lowest of these rates is that
of the fleet. Nothing is measured here.
"""

import argparse
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

if __name__ == "__main__":
    # Started by its path, Python searches only beside this file, and the parts are one package.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.tables import render

_JOB_SECONDS: Final = (0.003, 0.1, 1.0, 60.0)
_DAEMONS: Final = (1, 10, 100)
_WORKERS: Final = (100, 1_000, 10_000)
_MOST: Final = max(_WORKERS)

_US: Final = 1e-6
_MS: Final = 1e-3
_CHUNK: Final = 256 << 10
_MIB: Final = 1 << 20
_MODULE_BYTES: Final = 10 * _MIB
_LARGEST_WINDOW: Final = 65_536


@dataclass(frozen=True)
class Costs:
    """Measured costs: seconds of processor time, if nothing else is said.

    Machine: 2 cores of an AMD EPYC, Linux 6.18, Python 3.11, nats-server 2.15.1, nats-py 2.16.0.
    Streams are on disk, and each role is a process of its own.
    """

    daemon_job: float = 0.95 * _MS
    """Of the daemon's own process for a small job: fleet.py, without the delivery worker."""
    worker_job: float = 0.6 * _MS
    """Of the worker's own process, whose event loop uses one core: fleet.py, jobs that wait."""
    sandbox_job: float = 0.9 * _MS
    """Of the child processes of a small WASI command, on all cores of the worker."""
    slot_idle: float = 3.0 * _MS
    """Time that a slot takes for a job beside the job itself: pull, fork, report."""
    server_job: float = 0.09 * _MS
    """Of the server, with one replica: the job stored, delivered and removed, the answer likewise,
    and the start message. Bursts of 1,000 jobs with a window of 128."""
    server_job_replicated: float = 0.16 * _MS
    """Of each of three servers, with three replicas."""
    waiting_pull: float = 0.11 * _US
    """Of the server, per job and waiting pull request: it walks the list of them when a job
    arrives. 0.3 ms a job with 100 requests, 0.7 with 4,000, 2.0 with 16,000."""
    extend: float = 15 * _US
    """Of the server, to extend a lease: 34,000 a second from 200 connections."""
    message: float = 8 * _US
    """Of the server, for a heartbeat. Only ``wasmdrop fleet status`` receives it."""
    pull: float = 13 * _US
    """Of the server, for a pull request that expires."""
    stream_info: float = 0.4 * _MS
    """Of the server, to list the subjects of a daemon: 256 of 25,600."""
    connect: float = 0.6 * _MS
    """Of the server, for a connection with TLS and an nkey; 0.15 without."""
    chunk_store: float = 1.35 * _MS
    """Of the server, to store 256 KiB with one replica."""
    chunk_get: float = 0.26 * _MS
    """Of the server, for a direct get of 256 KiB."""
    daemon_chunk: float = 1.0 * _MS
    """Of a daemon, to send or receive 256 KiB: 17 ms more than locally for 2 MB in and 2 MB out."""


@dataclass(frozen=True)
class Fleet:
    """A fleet whose workers, daemons and jobs are alike. Times in seconds, sizes in bytes."""

    workers: int = 100
    slots: int = 4
    """Of each worker, which has as many cores."""
    daemons: int = 1
    job_seconds: float = 0.1
    window: int = 256
    replicas: int = 1
    server_cores: float = 4
    ack_pending: int = 100_000
    """``max_ack_pending`` of the consumer of a class of jobs."""
    jobs_max_bytes: int = 256 * _MIB
    """``max_bytes`` of the stream of jobs."""
    job_bytes: int = 800
    """Of a stored job with its subject."""
    large_bytes: int = 0
    """Of the output of a job that travels in chunks."""
    network_bytes_per_second: float = 125e6
    """Of each server: 1 Gbit/s."""
    extend_every: float = 3.0
    heartbeat_every: float = 5.0
    pull_seconds: float = 2.0
    """Life of a waiting pull request."""
    reconcile_every: float = 10.0


@dataclass(frozen=True)
class Limit:
    """A part of the fleet, and the rate of jobs with which it is fully used."""

    name: str
    jobs_per_second: float
    is_of_workers: bool = False
    """Whether more workers raise it."""


def limits(fleet: Fleet, costs: Costs) -> list[Limit]:
    """Return the limits of a fleet, the lowest first."""
    # By Little's law, a bound on jobs in flight is a rate.
    seconds = held_seconds(fleet, costs)
    slots = fleet.workers * fleet.slots
    found = [
        Limit("slots of the workers", slots / seconds, is_of_workers=True),
        Limit("event loops of the workers", fleet.workers / costs.worker_job, is_of_workers=True),
        Limit("processor of the daemons", _daemons_rate(fleet, costs)),
        Limit("window of the daemons", fleet.daemons * fleet.window / seconds),
        Limit("processor of the servers", _servers_rate(fleet, costs)),
        Limit("consumer of jobs, one core", _consumer_rate(fleet, costs)),
        Limit("max_ack_pending", fleet.ack_pending / seconds),
        Limit("max_bytes of jobs", fleet.jobs_max_bytes / fleet.job_bytes / seconds),
    ]
    if fleet.large_bytes:
        found.append(Limit("network of the servers", _network_rate(fleet)))
    return sorted(found, key=lambda limit: limit.jobs_per_second)


def held_seconds(fleet: Fleet, costs: Costs) -> float:
    """Return how long a job takes a slot, a lease and a place in the window."""
    return fleet.job_seconds + costs.slot_idle + costs.sandbox_job


def workers_fed(fleet: Fleet, costs: Costs) -> int:
    """Return the number of workers, up to 10,000, that the other parts keep busy."""
    busy, low, high = 0, 1, _MOST
    # More workers lower the other limits, because they cause messages of their own.
    while low <= high:
        middle = (low + high) // 2
        if limits(replace(fleet, workers=middle), costs)[0].is_of_workers:
            busy, low = middle, middle + 1
        else:
            high = middle - 1
    return busy


def idle_cores(fleet: Fleet, costs: Costs) -> float:
    """Return the cores of the servers that are busy without any job."""
    return (
        (fleet.workers + fleet.daemons) / fleet.heartbeat_every * costs.message
        + fleet.workers / fleet.pull_seconds * costs.pull
        + fleet.daemons / fleet.reconcile_every * costs.stream_info
    )


def waiting_job_seconds(fleet: Fleet, costs: Costs) -> float:
    """Return the processor time of the server for a job that finds all workers waiting."""
    return _server_job(fleet, costs) + fleet.workers * costs.waiting_pull


def cold_start_seconds(fleet: Fleet, costs: Costs, module_bytes: int) -> float:
    """Return the seconds until all workers have a new module, which the servers limit."""
    chunks = math.ceil(module_bytes / _CHUNK)
    processor = fleet.workers * chunks * costs.chunk_get / (fleet.server_cores * fleet.replicas)
    network = fleet.workers * module_bytes / (fleet.network_bytes_per_second * fleet.replicas)
    return max(processor, network)


def reconnect_seconds(fleet: Fleet, costs: Costs) -> float:
    """Return the seconds in which one server accepts all connections again."""
    return (fleet.workers + fleet.daemons) * costs.connect / fleet.server_cores


def _server_job(fleet: Fleet, costs: Costs) -> float:
    return costs.server_job if fleet.replicas == 1 else costs.server_job_replicated


def _daemons_rate(fleet: Fleet, costs: Costs) -> float:
    per_job = costs.daemon_job + fleet.large_bytes / _CHUNK * costs.daemon_chunk
    return fleet.daemons / per_job


def _servers_rate(fleet: Fleet, costs: Costs) -> float:
    """Return the rate with which one of the servers, all alike, is fully used."""
    extends = math.floor(fleet.job_seconds / fleet.extend_every) * costs.extend
    gets = fleet.large_bytes / _CHUNK * costs.chunk_get
    # Each server has its share of the clients, and writes everything.
    per_job = (
        _server_job(fleet, costs)
        + fleet.large_bytes / _CHUNK * costs.chunk_store
        + (extends + gets) / fleet.replicas
    )
    return max(0.0, fleet.server_cores - idle_cores(fleet, costs) / fleet.replicas) / per_job


def _consumer_rate(fleet: Fleet, costs: Costs) -> float:
    """Return the rate with which the consumer of a class of jobs, on one core, is fully used.

    A worker with a free slot has a pull request waiting, which makes each job dearer. The more jobs
    run, the fewer wait.
    """
    per_job = _server_job(fleet, costs)
    all_waiting = waiting_job_seconds(fleet, costs)
    relief = costs.waiting_pull * held_seconds(fleet, costs) / fleet.slots
    # The lower solution of: rate * (all_waiting - relief * rate) = 1.
    square = all_waiting**2 - 4 * relief
    if square < 0:
        return 1 / per_job
    return min(1 / per_job, 2 / (all_waiting + math.sqrt(square)))


def _network_rate(fleet: Fleet) -> float:
    """Return the rate with which the network of the leader of the outputs is fully used."""
    # Out to the daemon and to the other servers; the copy that comes in is smaller than that.
    return fleet.network_bytes_per_second / (fleet.large_bytes * fleet.replicas)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Compute what limits a fleet.")
    parser.add_argument("--slots", type=int, default=4, metavar="N", help="slots of each worker")
    parser.add_argument("--window", type=int, default=256, metavar="N", help="of each daemon")
    parser.add_argument("--replicas", type=int, choices=(1, 3), default=1, help="of each stream")
    parser.add_argument("--server-cores", type=float, default=4, metavar="N", help="of each server")
    options = parser.parse_args()
    fleet = Fleet(
        slots=options.slots,
        window=options.window,
        replicas=options.replicas,
        server_cores=options.server_cores,
    )
    sys.stdout.write(report(fleet, Costs()))
    return 0


def report(fleet: Fleet, costs: Costs) -> str:
    """Return all tables for the slots, the window and the servers of ``fleet``."""
    slots = _MOST * fleet.slots
    raised = replace(fleet, window=min(_LARGEST_WINDOW, slots))
    tables = {
        "Workers that a fleet keeps busy, and what limits it": _reached(fleet, costs),
        f"The same with a window for {slots:,} slots": _reached(raised, costs),
        f"Jobs a second that each part allows with {_MOST:,} workers": _parts(fleet, costs),
        "Load without jobs, cold start and reconnection": _idle(fleet, costs),
    }
    return "\n".join(f"### {title}\n\n{table}\n" for title, table in tables.items())


def _reached(fleet: Fleet, costs: Costs) -> str:
    rows = []
    for seconds in _JOB_SECONDS:
        for daemons in _DAEMONS:
            one = replace(fleet, job_seconds=seconds, daemons=daemons)
            busy = workers_fed(one, costs)
            found = limits(replace(one, workers=max(1, busy)), costs)
            first, second = [limit for limit in found if not limit.is_of_workers][:2]
            reached = found[0].jobs_per_second
            rows.append(
                [
                    f"{seconds:g} s",
                    str(daemons),
                    f"{busy:,}",
                    _rate(reached),
                    "-" if busy == _MOST else first.name,
                    f"{(first if busy == _MOST else second).name}",
                ]
            )
    head = ["job", "daemons", "busy workers", "jobs a second", "first limit", "next limit"]
    return render(head, rows, words=0)


def _parts(fleet: Fleet, costs: Costs) -> str:
    columns = [(seconds, daemons) for seconds in _JOB_SECONDS for daemons in (1, 100)]
    found = []
    for seconds, daemons in columns:
        one = replace(fleet, workers=_MOST, job_seconds=seconds, daemons=daemons)
        found.append({limit.name: limit.jobs_per_second for limit in limits(one, costs)})
    rows = [[name, *(_rate(each[name]) for each in found)] for name in sorted(found[0])]
    head = ["part", *(f"{seconds:g} s, {daemons} d." for seconds, daemons in columns)]
    return render(head, rows, words=1)


def _idle(fleet: Fleet, costs: Costs) -> str:
    rows = []
    for workers in _WORKERS:
        for daemons in _DAEMONS:
            one = replace(fleet, workers=workers, daemons=daemons)
            rows.append(
                [
                    f"{workers:,}",
                    str(daemons),
                    f"{idle_cores(one, costs):.2f}",
                    f"{waiting_job_seconds(one, costs) * 1e3:.2f}",
                    f"{cold_start_seconds(one, costs, _MODULE_BYTES):,.1f}",
                    f"{reconnect_seconds(one, costs):.2f}",
                ]
            )
    head = ["workers", "daemons", "cores of the servers"]
    head += ["server ms a job, all waiting", f"{_MODULE_BYTES // _MIB} MiB to all, s", "connect, s"]
    return render(head, rows, words=0)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"  # noqa: PLR2004 - two digits


if __name__ == "__main__":
    sys.exit(main())
