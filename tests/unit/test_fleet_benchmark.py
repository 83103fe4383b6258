"""The tables of the benchmark of a fleet."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.client import Client
from benchmarks.contenders import Wasmdrop
from benchmarks.fleet import Burst, Case, report_beside, report_growing
from benchmarks.workloads import sleeping


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """Give a client, which drops nothing here."""
    client = Client(tmp_path)
    yield client
    client.close()


def measured(daemon: Wasmdrop, client: Client, *rates: float) -> Case:
    """Return a case with one burst of 100 jobs for each rate, and processor time of 1 + 2 ms."""
    cpu = {"daemon": 0.1, "server": 0.0, "workers": 0.2}
    bursts = [Burst(100, 100 / rate, cpu) for rate in rates]
    return Case(daemon, client, sleeping(), [0.001, 0.002, 0.009], bursts)


def cells(line: str) -> list[str]:
    """Return the cells of a line of a table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_growth_is_the_rate_beside_that_of_one_worker(tmp_path: Path, client: Client) -> None:
    """Of several bursts, the median counts."""
    daemon = Wasmdrop(tmp_path, {})
    rates = [[100, 10, 900], [180], [240]]
    cases = [measured(daemon, client, *each) for _ in range(3) for each in rates]
    lines = report_growing(cases, slots=2, cores=2).splitlines()[2:]
    assert [cells(line)[1] for line in lines[:3]] == ["1", "2", "3"]
    assert [cells(line)[5] for line in lines[:3]] == ["1.00", "0.90", "0.80"]
    assert cells(lines[5])[:5] == ["30 ms", "3", "100", "200.0", "240.0"]
    assert cells(lines[5])[6:] == ["3.00", "0.72 of 2"]


def test_fleet_is_compared_with_the_local_daemon(tmp_path: Path, client: Client) -> None:
    """Roles without processes have no figure."""
    daemon = Wasmdrop(tmp_path, {})
    local, fleet = measured(daemon, client, 400), measured(daemon, client, 300)
    local.workload = fleet.workload
    fleet.latencies = [0.004, 0.005]
    row = cells(report_beside([local, fleet]).splitlines()[3])
    assert row[2:] == ["4.50", "-", "2.50", "300", "0.75", "1.00", "-", "2.00", "3.00"]


def test_sleeping_module_has_the_time_that_was_asked_for() -> None:
    """Modules with different times are different, also by name."""
    names = [sleeping(seconds).module_name for seconds in (0.003, 0.03, 0.3)]
    assert names == ["sleep-3", "sleep-30", "sleep-300"]
    assert len({sleeping(seconds).module for seconds in (0.003, 0.03, 0.3)}) == 3
