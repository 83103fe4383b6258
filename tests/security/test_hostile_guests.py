"""Hostile modules, dropped at a real daemon: each ends in its code, and leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB
from tests.support.require import require_confinement
from tests.support.security.binaries import BOMBS, WORK

COMPILE_SECONDS = 5
TIMEOUT_SECONDS = 0.5

#: How much a process may have grown after a job and still count as unmoved, in MiB. What an
#: allocator keeps for the next job is not a job's trace; what grows from job to job is.
TOLERANCE_MB = 8.0

#: Descriptors that a module may leave open: one a set of engine options.
CODE_DESCRIPTORS = 2

#: What a machine that is busy with other tests may add, in seconds.
MARGIN_SECONDS = 3


def resident_mb(pid: int) -> float:
    """Return the resident size of a process that is its own, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has forked; none where it is gone."""
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except FileNotFoundError:
        return []


#: Forking server and idle children while nothing runs: one a worker and two more.
WORKERS = 2
PROCESSES_AT_REST = 1 + WORKERS + 2


class Footprint:
    """What of the daemon can be seen from outside: sizes, processes, descriptors."""

    def __init__(self, daemon: Daemon) -> None:
        assert daemon.process is not None
        self.daemon_pid = daemon.process.pid
        self.server_pid = daemon.fork_server()
        # A template, of which the module that warms up has one for a while, has children itself.
        self.processes = 1 + sum(not children_of(pid) for pid in children_of(self.server_pid))
        self.descriptors = [self._descriptors(pid) for pid in (self.daemon_pid, self.server_pid)]
        self.sizes_mb = [resident_mb(pid) for pid in (self.daemon_pid, self.server_pid)]

    @staticmethod
    def _descriptors(pid: int) -> int:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one daemon for all guests: each must leave it as it was."""
    require_confinement()
    it = Daemon(
        tmp_path_factory.mktemp("hostile"),
        WASMDROP_COMPILE_SEC=str(COMPILE_SECONDS),
        WASMDROP_COMPILE_MEMORY_MB="512",
        WASMDROP_MEMORY_MB="16",
        WASMDROP_OUTPUT_MB="1",
        WASMDROP_ATTEMPTS="1",
        WASMDROP_WORKERS=str(WORKERS),
        TIMEOUT_SEC=str(TIMEOUT_SECONDS),
    )
    drop(it.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    with it.running():
        for n in range(20):
            it.submit("input-warm.json", {"entry": "fib", "args": [n % 5], "id": str(n)})
        yield it


def at_rest(daemon: Daemon) -> Footprint:
    """Wait until nothing runs and every idle child is there; return what is there then."""
    last = Footprint(daemon)

    def look() -> Footprint | None:
        nonlocal last
        # Twice the same: a child exists for a moment before the daemon has its descriptors.
        before, last = last, Footprint(daemon)
        same = before.descriptors == last.descriptors
        return last if last.processes == PROCESSES_AT_REST and same else None

    return wait_until(look, f"{PROCESSES_AT_REST} processes at rest")


def settled(daemon: Daemon, before: Footprint) -> Footprint:
    """Wait until there are no more processes and descriptors than before; return what is there."""

    def look() -> Footprint | None:
        after = Footprint(daemon)
        # The machine code of the job's module stays open for the next job.
        spare = after.descriptors[0] <= before.descriptors[0] + CODE_DESCRIPTORS
        same = after.descriptors[1] <= before.descriptors[1]
        return after if after.processes == PROCESSES_AT_REST and spare and same else None

    return wait_until(look, "the job's processes and descriptors to go")


def unmoved(before: Footprint, after: Footprint) -> None:
    """Check that the daemon and the forking server are the same, and of the same size."""
    assert after.server_pid == before.server_pid
    for was_mb, is_mb in zip(before.sizes_mb, after.sizes_mb, strict=True):
        assert is_mb - was_mb < TOLERANCE_MB


@pytest.mark.parametrize("name", BOMBS)
def test_a_module_that_is_too_much_ends_in_bounded_time(daemon: Daemon, name: str) -> None:
    """And in a code that says why; neither the daemon nor the forking server grows by it."""
    build, codes = BOMBS[name]
    before = at_rest(daemon)
    drop(daemon.wasm / f"{name}.wasm", build())
    marker = daemon.submit(f"input-{name}.json", {"module": name, "entry": "run", "args": [7]})
    after = settled(daemon, before)
    assert marker["code"] in codes, marker["message"]
    assert marker["message"] or marker["code"] == "ok"
    assert marker["seconds"]["total"] < COMPILE_SECONDS + TIMEOUT_SECONDS + MARGIN_SECONDS
    assert marker["attempt"] <= 1
    unmoved(before, after)


@pytest.mark.parametrize("name", WORK)
def test_a_guest_that_does_not_end_is_ended(daemon: Daemon, name: str) -> None:
    """At its limit, also while it sleeps in the middle of a host call."""
    text, codes = WORK[name]
    before = at_rest(daemon)
    drop(daemon.wasm / f"{name}.wasm", bytes(wat2wasm(f"(module {text})")))
    marker = daemon.submit(f"input-{name}.json", {"module": name, "entry": "run"})
    assert marker["code"] in codes, marker["message"]
    assert marker["seconds"]["run"] < TIMEOUT_SECONDS + 1
    if marker["code"] == "timeout":
        assert marker["seconds"]["run"] >= TIMEOUT_SECONDS
    unmoved(before, settled(daemon, before))


def test_a_good_job_runs_after_all_of_them(daemon: Daemon) -> None:
    """As if nothing had been."""
    daemon.submit("input-good.json", {"entry": "fib", "args": [12]})
    assert daemon.result("input-good.json")["results"] == [144]
