"""Drops run once, and their results are right."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import FIB, with_fib
from tests.support.guests import runs_in_native, use_guest


@pytest.fixture
def daemon(guest: str, tmp_path: Path) -> Iterator[Daemon]:
    """Give a running daemon whose default module is ``fib``, with each guest."""
    it = with_fib(tmp_path)
    record = use_guest(guest, it)
    with it.running():
        yield it
    assert all(runs_in_native(record).values())


def test_input_that_is_dropped_gives_a_result(daemon: Daemon) -> None:
    """Every byte of the main use case."""
    marker = daemon.submit("input.json", '{"entry":"fib","args":[12]}')
    assert marker["status"] == "succeeded"
    assert daemon.result("input.json") == {"entry": "fib", "args": [12], "results": [144]}
    line = '{"entry":"fib","args":[12],"results":[144]}'
    assert (daemon.shared / "result.json").read_text() == line + "\n"
    assert (daemon.shared / "result.txt").read_text().splitlines()[-2:] == ["result: 144", "144"]
    wait_until(lambda: daemon.lines() == [line], "the result line")


def test_thousand_slots_dropped_at_once_give_a_thousand_results(daemon: Daemon) -> None:
    """None missing, none wrong, none twice."""
    fib = [0, 1]
    while len(fib) < 20:
        fib.append(fib[-1] + fib[-2])
    names = [f"input-{number}.json" for number in range(1000)]
    for number, name in enumerate(names):
        drop(daemon.shared / name, {"entry": "fib", "args": [number % 20], "id": str(number)})
    for number, name in enumerate(names):
        marker = wait_until(lambda name=name: daemon.marker(name), name)  # type: ignore[misc]
        assert marker["id"] == str(number)
        assert daemon.result(name)["results"] == [fib[number % 20]]
    wait_until(lambda: len(daemon.lines()) >= 1000, "a thousand result lines")
    assert len(daemon.lines()) == 1000
    wait_until(lambda: len(daemon.events("job-finished")) >= 1000, "a thousand log lines")
    assert len(daemon.events("job-finished")) == 1000


def test_input_that_is_touched_runs_again_and_the_same_version_does_not(daemon: Daemon) -> None:
    """A version is a drop once; a new modification time makes a new version."""
    first = daemon.submit("input.json", '{"args":[3]}')
    os.utime(daemon.shared / "input.json")
    # touch(1) opens the file for writing and closes it, which is the event; utime(2) alone is not.
    with (daemon.shared / "input.json").open("ab"):
        pass
    again = wait_until(
        lambda: (
            found
            if (found := daemon.marker("input.json")) and found["job"] != first["job"]
            else None
        ),
        "the second job",
    )
    with (daemon.shared / "input.json").open("ab"):
        pass
    daemon.submit("input-other.json", '{"args":[4]}')
    assert daemon.marker("input.json") == again


def test_job_whose_module_is_missing_waits_for_it(tmp_path: Path) -> None:
    """An input that comes first finds the module that comes after it."""
    with Daemon(tmp_path).running() as daemon:
        drop(daemon.shared / "input.json", '{"entry":"fib","args":[10]}')
        wait_until(lambda: not daemon.events("job-finished"), "nothing")
        drop(daemon.wasm / "module.wasm", bytes(wat2wasm(FIB)))
        wait_until(lambda: daemon.marker("input.json"), "the marker")
        assert daemon.result("input.json")["results"] == [55]
    assert len(daemon.events("job-finished")) == 1


def test_input_that_exists_at_start_runs_once_and_not_at_the_next_start(tmp_path: Path) -> None:
    """A daemon that comes late finds the drops, and remembers them."""
    daemon = with_fib(tmp_path)
    drop(daemon.shared / "deep" / "er" / "input-x.json", '{"entry":"fib","args":[9]}')
    with daemon.running():
        wait_until(lambda: daemon.marker("deep/er/input-x.json"), "the marker")
    assert daemon.result("deep/er/input-x.json")["results"] == [34]
    with daemon.running():
        daemon.submit("input.json", '{"entry":"fib","args":[8]}')
    slots = [event["slot"] for event in daemon.events("job-finished")]
    assert sorted(slots) == ["deep/er/input-x.json", "input.json"]


def test_default_module_without_an_input_runs_the_environments_entry(tmp_path: Path) -> None:
    """A module, an environment and no input, as the relayer uses it."""
    daemon = Daemon(tmp_path, ENTRY="fib", ARG_0="20")
    with daemon.running():
        drop(daemon.wasm / "module.wasm", bytes(wat2wasm(FIB)))
        wait_until(lambda: daemon.marker("input.json"), "the marker")
    assert (daemon.shared / "result.txt").read_text().splitlines()[-1] == "6765"


def test_daemon_that_stops_leaves_no_process(daemon: Daemon) -> None:
    """Fork server, its children and delivery workers end with the daemon."""
    daemon.submit("input.json", '{"entry":"fib","args":[5]}')
    children = daemon.children()
    assert len(children) > len(daemon.delivery_workers()) + 1 > 1
    assert daemon.stop() == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    daemon.start()
