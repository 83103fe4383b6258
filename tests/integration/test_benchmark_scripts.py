"""The scripts that benchmarks compare wasmdrop with: their results are right."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.client import Client
from benchmarks.contenders import (
    Contender,
    DurableWarmScript,
    PlainLoop,
    WarmScript,
    WatchdogScript,
)
from benchmarks.workloads import Workload, find

KINDS = [WarmScript, DurableWarmScript, PlainLoop, WatchdogScript]


@pytest.fixture
def workloads() -> list[Workload]:
    """Return those that all contenders run."""
    return [one for one in find() if isinstance(one, Workload) and one.everywhere]


@contextlib.contextmanager
def _running(kind: type[Contender], base: Path, workloads: list[Workload]) -> Iterator[Contender]:
    contender = kind(base, {one.module_name: one.module for one in workloads})
    contender.start()
    try:
        yield contender
    finally:
        contender.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_script_runs_functions_reactors_and_commands(
    tmp_path: Path, kind: type[Contender], workloads: list[Workload]
) -> None:
    """Results, output and marker are complete, and the temporary names are gone."""
    with _running(kind, tmp_path, workloads) as contender:
        client = Client(contender.shared)
        for workload in workloads:
            name, content = f"input-{workload.module_name}.json", workload.input(3)
            client.drop(name, content)
            contender.check(name, content, workload.wanted(3))
        client.close()
        hidden = [path.name for path in contender.shared.iterdir() if path.name[0] == "."]
    assert hidden == []
