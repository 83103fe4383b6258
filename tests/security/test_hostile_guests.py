"""Hostile modules in a real daemon: each ends in the right code and leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB
from tests.support.guests import running_in
from tests.support.require import require_confinement
from tests.support.security.binaries import BOMBS, WORK

COMPILE_SECONDS = 5
TIMEOUT_SECONDS = 0.5

#: Growth in MiB that an allocator may keep after a job. Growth from job to job exceeds it.
TOLERANCE_MB = 8.0

#: Descriptors of machine code that stay open for the next job: one per set of engine options.
CODE_DESCRIPTORS = 2

#: Descriptors of a zygote: machine code, link, pidfd and control socket. Each of its idle children,
#: one per worker, has a link, a pidfd and two streams.
ZYGOTE_DESCRIPTORS = 4 + 4 * 2


def resident_mb(pid: int) -> float:
    """Return the anonymous resident memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def children_of(pid: int) -> list[int]:
    """Return the children of a process; none if it has exited."""
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except FileNotFoundError:
        return []


#: The fork server and its idle children while no job runs: one per worker and two more.
WORKERS = 2
PROCESSES_AT_REST = 1 + WORKERS + 2


class Footprint:
    """The daemon's sizes, processes and descriptors, seen from outside."""

    def __init__(self, daemon: Daemon) -> None:
        assert daemon.process is not None
        self.daemon_pid = daemon.process.pid
        self.server_pid = daemon.fork_server()
        # Zygotes do not count. Unlike the idle children, they have children.
        are_zygotes = [bool(children_of(pid)) for pid in children_of(self.server_pid)]
        self.processes = 1 + are_zygotes.count(False)
        self.zygotes = are_zygotes.count(True)
        self.descriptors = [self._descriptors(pid) for pid in (self.daemon_pid, self.server_pid)]
        self.sizes_mb = [resident_mb(pid) for pid in (self.daemon_pid, self.server_pid)]

    @staticmethod
    def _descriptors(pid: int) -> int:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Return one daemon for all guests: each must leave it unchanged."""
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
    with running_in(guest, it):
        for n in range(20):
            it.submit("input-warm.json", {"entry": "fib", "args": [n % 5], "id": str(n)})
        yield it


def at_rest(daemon: Daemon) -> Footprint:
    """Wait until no job runs and all idle children exist; return the footprint."""
    last = Footprint(daemon)

    def look() -> Footprint | None:
        nonlocal last
        # Stable twice: a child exists for a moment before the daemon has its descriptors.
        before, last = last, Footprint(daemon)
        same = before.descriptors == last.descriptors
        return last if last.processes == PROCESSES_AT_REST and same else None

    return wait_until(look, f"{PROCESSES_AT_REST} processes at rest")


def settled(daemon: Daemon, before: Footprint) -> Footprint:
    """Wait until the processes and descriptors are those of before; return the footprint."""

    def look() -> Footprint | None:
        after = Footprint(daemon)
        # The machine code of the job's module stays open for the next job, and so may its zygote.
        # Its zygote may have taken the place of one without streams.
        new_zygotes = max(min(1, after.zygotes), after.zygotes - before.zygotes)
        more = CODE_DESCRIPTORS + ZYGOTE_DESCRIPTORS * new_zygotes
        spare = after.descriptors[0] <= before.descriptors[0] + more
        same = after.descriptors[1] <= before.descriptors[1]
        return after if after.processes == PROCESSES_AT_REST and spare and same else None

    return wait_until(look, "the job's processes and descriptors to go")


def assert_unchanged(before: Footprint, after: Footprint) -> None:
    """Check that the fork server is still the same, and that neither process has grown."""
    assert after.server_pid == before.server_pid
    for was_mb, is_mb in zip(before.sizes_mb, after.sizes_mb, strict=True):
        assert is_mb - was_mb < TOLERANCE_MB


@pytest.mark.parametrize("name", BOMBS)
def test_oversized_module_ends_in_its_code(daemon: Daemon, name: str) -> None:
    """With a message; neither the daemon nor the fork server grows."""
    build, codes = BOMBS[name]
    before = at_rest(daemon)
    drop(daemon.wasm / f"{name}.wasm", build())
    marker = daemon.submit(f"input-{name}.json", {"module": name, "entry": "run", "args": [7]})
    after = settled(daemon, before)
    assert marker["code"] in codes, marker["message"]
    assert marker["message"] or marker["code"] == "ok"

    assert marker["attempt"] <= 1
    assert_unchanged(before, after)


@pytest.mark.parametrize("name", WORK)
def test_endless_guest_is_ended_at_its_limit(daemon: Daemon, name: str) -> None:
    """Even if it sleeps in a host call."""
    text, codes = WORK[name]
    before = at_rest(daemon)
    drop(daemon.wasm / f"{name}.wasm", bytes(wat2wasm(f"(module {text})")))
    marker = daemon.submit(f"input-{name}.json", {"module": name, "entry": "run"})
    assert marker["code"] in codes, marker["message"]

    if marker["code"] == "timeout":
        assert marker["seconds"]["run"] >= TIMEOUT_SECONDS
    assert_unchanged(before, settled(daemon, before))


def test_job_after_hostile_ones_succeeds(daemon: Daemon) -> None:
    """In the same daemon."""
    daemon.submit("input-good.json", {"entry": "fib", "args": [12]})
    assert daemon.result("input-good.json")["results"] == [144]
