"""Directories of jobs: where they are created, and what is removed."""

import asyncio
import os
from pathlib import Path

import pytest

from wasmdrop.sandbox.host import job_directory
from wasmdrop.sandbox.host.job_directory import JobDirectoryFactory

LIMIT_BYTES = 1 << 20


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Give a private state directory."""
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


def _module(parent: Path) -> str:
    return parent.name.partition("-")[0]


def test_directories_of_jobs_of_one_module_have_a_parent_of_their_own(state: Path) -> None:
    """The parent is what a zygote of the module may reach."""
    factory = JobDirectoryFactory(state, for_another_user=False)
    first, second, other = (factory.make(LIMIT_BYTES, name) for name in ("a", "a", "b"))
    inodes = [os.fstat(one.parent_fd).st_ino for one in (first, second, other)]
    assert inodes[0] == inodes[1] != inodes[2]
    assert {_module(path.parent) for path in state.glob("jobs/*/*")} == {"a", "b"}
    for one in (first, second, other):
        asyncio.run(one.leave(keep=False))
    assert not list(state.glob("jobs/*/*"))


def test_sweep_keeps_outputs_that_are_undelivered(state: Path) -> None:
    """Everything else of earlier daemons goes, also directories of the former layout."""
    for name in ("a/kept/file", "a/gone/file", "b/gone/file", "former/file", "former-kept/file"):
        path = state / "jobs" / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch()
    (state / "jobs").chmod(0o700)
    kept = [str(state / "jobs" / name) for name in ("a/kept", "former-kept")]
    JobDirectoryFactory(state, for_another_user=False).sweep(kept)
    left = {str(path.relative_to(state / "jobs")) for path in state.glob("jobs/**/file")}
    assert left == {"a/kept/file", "former-kept/file"}
    assert not (state / "jobs" / "b").exists()


def test_sweep_keeps_directories_of_jobs_that_run(state: Path) -> None:
    """Jobs that an earlier daemon left open may run before the sweep."""
    asyncio.run(_run_job(JobDirectoryFactory(state, for_another_user=False)))
    factory = JobDirectoryFactory(state, for_another_user=False)
    running = factory.make(LIMIT_BYTES, "a")
    factory.sweep()
    assert running.is_empty()
    assert len(list(state.glob("jobs/*"))) == 1
    asyncio.run(running.leave(keep=False))
    asyncio.run(_run_job(factory))


async def _run_job(factory: JobDirectoryFactory) -> None:
    await factory.make(LIMIT_BYTES, "a").leave(keep=False)


def test_parents_of_modules_are_bounded(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is in use stays; one that is needed again is made again."""
    monkeypatch.setattr(job_directory, "_MAX_MODULES", 2)
    factory = JobDirectoryFactory(state, for_another_user=False)
    used = factory.make(LIMIT_BYTES, "used")
    for name in ("a", "b", "c", "a"):
        asyncio.run(factory.make(LIMIT_BYTES, name).leave(keep=False))
    assert {_module(path) for path in state.glob("jobs/*")} == {"used", "a", "c"}
    asyncio.run(used.leave(keep=False))
