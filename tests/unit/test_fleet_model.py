"""The arithmetic of the model of a fleet."""

from dataclasses import fields, replace

import pytest
from benchmarks.fleet_model import (
    Costs,
    Fleet,
    cold_start_seconds,
    held_seconds,
    idle_cores,
    limits,
    reconnect_seconds,
    report,
    waiting_job_seconds,
    workers_fed,
)

#: Nothing costs anything, so that each test sets what it is about.
FREE = Costs(**{field.name: 0.0 for field in fields(Costs)})

#: The two costs without which rates have no bound.
CHEAP = replace(FREE, daemon_job=1e-3, worker_job=1e-3, server_job=1e-4)


def rate(name: str, fleet: Fleet, costs: Costs) -> float:
    """Return the rate that a part allows."""
    (found,) = (limit for limit in limits(fleet, costs) if limit.name == name)
    return found.jobs_per_second


def test_limits_of_a_fleet_are_in_ascending_order() -> None:
    """The first limit is the rate of the fleet."""
    rates = [limit.jobs_per_second for limit in limits(Fleet(), Costs())]
    assert rates == sorted(rates)
    assert rates[0] > 0


def test_slots_and_window_allow_as_many_jobs_as_they_hold_per_duration() -> None:
    """Little's law, if nothing else takes time."""
    fleet = Fleet(workers=10, slots=4, daemons=2, window=30, job_seconds=0.5)
    assert rate("slots of the workers", fleet, CHEAP) == pytest.approx(40 / 0.5)
    assert rate("window of the daemons", fleet, CHEAP) == pytest.approx(60 / 0.5)
    assert rate("max_ack_pending", fleet, CHEAP) == pytest.approx(100_000 / 0.5)


def test_time_beside_the_job_counts_as_time_in_the_slot() -> None:
    """A job of 3 ms takes a slot for longer than that."""
    costs = replace(CHEAP, slot_idle=0.2, sandbox_job=0.3)
    assert held_seconds(Fleet(job_seconds=0.5), costs) == pytest.approx(1.0)


def test_daemons_rate_falls_by_the_time_for_large_outputs() -> None:
    """A daemon checks and writes each chunk."""
    costs = replace(CHEAP, daemon_chunk=1e-3)
    fleet = Fleet(daemons=10, large_bytes=3 * (256 << 10))
    assert rate("processor of the daemons", fleet, costs) == pytest.approx(10 / 4e-3)


def test_servers_rate_counts_extensions_of_long_jobs() -> None:
    """A job of 30 s extends its lease ten times."""
    costs = replace(CHEAP, extend=1e-4)
    fleet = Fleet(job_seconds=30, extend_every=3, server_cores=2)
    assert rate("processor of the servers", fleet, costs) == pytest.approx(2 / (1e-4 + 10 * 1e-4))


def test_servers_rate_without_jobs_falls_by_the_idle_load() -> None:
    """Heartbeats, pull requests and listings go on beside the jobs."""
    costs = replace(CHEAP, message=1e-4, pull=1e-3, stream_info=0.1)
    fleet = Fleet(workers=990, daemons=10, server_cores=4, pull_seconds=2, reconcile_every=10)
    # 200 heartbeats a second, 495 pull requests, one listing.
    idle = 200 * 1e-4 + 495 * 1e-3 + 0.1
    assert idle_cores(fleet, costs) == pytest.approx(idle)
    assert rate("processor of the servers", fleet, costs) == pytest.approx((4 - idle) / 1e-4)


def test_consumer_rate_counts_only_pull_requests_of_workers_that_wait() -> None:
    """The rate solves its equation."""
    costs = replace(CHEAP, waiting_pull=1e-7)
    fleet = Fleet(workers=10_000, slots=4, job_seconds=0.1)
    found = rate("consumer of jobs, one core", fleet, costs)
    waiting = fleet.workers - found * fleet.job_seconds / fleet.slots
    assert found * (costs.server_job + waiting * costs.waiting_pull) == pytest.approx(1)


def test_consumer_rate_with_all_workers_busy_is_that_without_waiting_requests() -> None:
    """Long jobs keep all workers busy before the consumer is."""
    costs = replace(CHEAP, waiting_pull=1e-7)
    fleet = Fleet(workers=1_000, slots=4, job_seconds=60)
    assert rate("consumer of jobs, one core", fleet, costs) == pytest.approx(1 / costs.server_job)


def test_job_that_finds_all_workers_waiting_costs_each_of_their_requests() -> None:
    """The server walks the list of them."""
    costs = replace(CHEAP, waiting_pull=1e-7)
    assert waiting_job_seconds(Fleet(workers=10_000), costs) == pytest.approx(1.1e-3)


@pytest.mark.parametrize("daemons", [1, 10])
@pytest.mark.parametrize("seconds", [0.003, 0.1, 1.0])
def test_workers_fed_are_the_most_that_are_the_lowest_limit(daemons: int, seconds: float) -> None:
    """One more worker meets another limit first."""
    fleet, costs = Fleet(daemons=daemons, job_seconds=seconds), Costs()
    busy = workers_fed(fleet, costs)
    assert limits(replace(fleet, workers=busy), costs)[0].is_of_workers
    assert not limits(replace(fleet, workers=busy + 1), costs)[0].is_of_workers


def test_workers_fed_by_a_window_are_those_with_its_slots() -> None:
    """256 jobs in flight keep 64 workers with 4 slots busy."""
    assert workers_fed(Fleet(slots=4, window=256, job_seconds=60), Costs()) == 64


def test_large_outputs_are_limited_by_the_network_of_the_server() -> None:
    """It sends each output to the daemon and to each other server."""
    costs = replace(CHEAP, server_job_replicated=1e-4)
    fleet = Fleet(large_bytes=1_000_000, network_bytes_per_second=1e8)
    assert rate("network of the servers", fleet, costs) == pytest.approx(100)
    assert rate("network of the servers", replace(fleet, replicas=2), costs) == pytest.approx(50)


def test_cold_start_takes_as_long_as_the_slower_of_network_and_processor() -> None:
    """All workers read the same chunks; a chunk that is not full counts as one."""
    fleet = Fleet(workers=100, network_bytes_per_second=1e8, server_cores=1)
    assert cold_start_seconds(fleet, FREE, 10_000_000) == pytest.approx(10)
    slow = replace(FREE, chunk_get=1.0)
    assert cold_start_seconds(fleet, slow, 3 * (256 << 10)) == pytest.approx(300)
    assert cold_start_seconds(replace(fleet, replicas=3), slow, 1) == pytest.approx(100 / 3)


def test_reconnection_takes_the_time_of_all_clients_on_the_cores_of_a_server() -> None:
    """After a restart, all of them come back."""
    costs = replace(FREE, connect=1e-3)
    assert reconnect_seconds(Fleet(workers=990, daemons=10, server_cores=4), costs) == 0.25


def test_report_names_each_part_that_limits() -> None:
    """The tables show all limits."""
    text = report(Fleet(), Costs())
    for limit in limits(Fleet(), Costs()):
        assert limit.name in text
