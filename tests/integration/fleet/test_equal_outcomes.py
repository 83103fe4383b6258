"""The same jobs on the daemon's machine and in a fleet, which must have equal outcomes."""

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest
from wasmtime import wat2wasm

from tests.support.components import ECHOES, EVERYTHING
from tests.support.daemon import JOB_USER, Daemon, drop
from tests.support.fleet.ready import ready_server
from tests.support.fleet.worker import Worker
from tests.support.job_cases import CASES, comparable

WORKER: Final = "one"


class Job(NamedTuple):
    """A module and its input."""

    module: bytes
    keys: dict[str, Any]


def jobs() -> dict[str, Job]:
    """Return the jobs by name: those of all kinds, components with values of all types.

    Also deterministic ones. Those with grants and those that can't be run never leave the daemon's
    machine.
    """
    found = {
        name: Job(case.module, case.keys)
        for name, case in CASES.items()
        if "grants" not in case.keys and case.code != "entry-not-found"
    }
    everything = bytes(wat2wasm(EVERYTHING))
    for name, (_form, values) in ECHOES.items():
        found[f"echo-{name}"] = Job(everything, {"entry": f"echo-{name}", "args": [values]})
    for name in ("values", "exit-3", "unreachable", "large-files", "odd-files"):
        module, keys = found[name]
        found[f"deterministic-{name}"] = Job(module, {**keys, "deterministic": True})
    return found


JOBS: Final = jobs()


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    """Give a daemon without a fleet and one that runs nothing itself, to which all jobs were given.

    Each job is the first of its slot, so that they run side by side.
    """
    base = tmp_path_factory.mktemp("equal")
    settings = {"WASMDROP_ATTEMPTS": "1", "TIMEOUT_SEC": "3600", "WASMDROP_LOG": "json"}
    with ready_server(base / "nats") as server:
        local = Daemon(base / "local", **settings)
        remote = Daemon(
            base / "remote",
            **settings,
            WASMDROP_FLEET=server.url,
            WASMDROP_FLEET_NAME="daemon",
            WASMDROP_FLEET_FALLBACK="wait",
            WASMDROP_JOB_USER=str(JOB_USER - 100),
        )
        worker = Worker(
            base / WORKER, server, TIMEOUT_SEC="3600", WASMDROP_JOB_USER=str(JOB_USER - 200)
        )
        with local.running(), worker.running(), remote.running():
            for name in JOBS:
                for daemon in (local, remote):
                    give(daemon, name)
            yield local, remote
        assert [path.name for path in worker.state.glob("jobs/*/*")] == []


def give(daemon: Daemon, name: str) -> None:
    """Drop a job."""
    job = JOBS[name]
    drop(daemon.wasm / f"{name}.wasm", job.module)
    drop(daemon.shared / name / "input.json", {"module": f"{name}.wasm", **job.keys})


def ended(daemon: Daemon, name: str) -> dict[str, Any]:
    """Wait for a job; return its outcome."""
    slot = f"{name}/input.json"
    content = (daemon.shared / slot).read_bytes()
    return comparable(daemon, slot, daemon.wait_for(slot, content))


@pytest.mark.parametrize("name", JOBS)
def test_outcome_of_a_job_is_the_same_in_a_fleet(daemons: tuple[Daemon, Daemon], name: str) -> None:
    """Markers and result files, but for the name of the worker."""
    local, remote = daemons
    here, there = ended(local, name), ended(remote, name)
    assert there.pop("worker") == WORKER
    assert here.pop("worker") is None
    assert there == here
    assert json.dumps(there) == json.dumps(here)
    for path in (one for one in files_of(local, name) if not one.endswith((".done", ".txt"))):
        assert content(local, name, path) == content(remote, name, path)
    assert files_of(remote, name) == files_of(local, name)


def files_of(daemon: Daemon, name: str) -> list[str]:
    """Return the relative paths of all files of a slot."""
    root = daemon.shared / name
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def content(daemon: Daemon, name: str, path: str) -> bytes | None:
    """Return the content of a file of a slot; None for a directory."""
    found = daemon.shared / name / path
    return found.read_bytes() if found.is_file() else None
