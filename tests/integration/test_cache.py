"""The module cache, seen from outside: restarts, damage, the limit."""

import os
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop
from tests.support.fib import with_fib

#: A module of about 600 kB that returns a number of its own.
_LARGE = """
(module (memory 10) (data (i32.const 0) "{pad}")
  (func (export "run") (result i32) (i32.const {number})))
"""


def large(number: int) -> bytes:
    """Return a large module, different for each number."""
    return bytes(wat2wasm(_LARGE.format(pad=chr(ord("a") + number) * 600_000, number=number)))


def answer(daemon: Daemon, name: str, content: dict[str, object]) -> object:
    """Submit an input and return its result."""
    marker = daemon.submit(name, content)
    assert marker["code"] == "ok", marker["message"]
    return daemon.result(name)["results"]


def test_module_cache_after_a_restart_compiles_only_damaged_entries(tmp_path: Path) -> None:
    """The job of a damaged entry gets its result all the same, and the log says why."""
    daemon = with_fib(tmp_path)
    fib: dict[str, object] = {"entry": "fib", "args": [10]}
    for is_damaged, compiled in ((False, 1), (False, 1), (True, 2)):
        if is_damaged:
            (code,) = daemon.state.glob("code/*/*.cwasm")
            os.truncate(code, code.stat().st_size - 1)
        with daemon.running():
            assert answer(daemon, "input.json", fib) == [55]
        assert len(daemon.events("module-compiled")) == compiled
        assert len(daemon.events("cache-entry-refused")) == is_damaged


def test_module_cache_past_its_limit_evicts_and_recompiles(tmp_path: Path) -> None:
    """The directories hold no more than the limit.

    A module that is still dropped is read and compiled again.
    """
    daemon = Daemon(tmp_path)
    for number in range(4):
        drop(daemon.wasm / f"large{number}.wasm", large(number))

    def run_all() -> None:
        for number in range(4):
            assert answer(daemon, f"input-{number}.json", {"module": f"large{number}"}) == [number]

    with daemon.running():
        run_all()
    assert not daemon.events("cache-evicted")
    daemon.environment["WASMDROP_CACHE_MB"] = "3"
    with daemon.running():
        sizes = [path.stat().st_size for path in daemon.state.glob("[cm]*/**/*") if path.is_file()]
        assert 0 < sum(sizes) <= 3 << 20
        assert daemon.events("cache-evicted")
        run_all()


def test_state_directory_that_others_may_write_to_stops_the_start(tmp_path: Path) -> None:
    """The daemon opens nothing in it, so it writes through no link of theirs."""
    daemon = Daemon(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    daemon.state.mkdir()
    (daemon.state / "lock").symlink_to(victim)
    daemon.state.chmod(0o777)
    with pytest.raises(AssertionError, match=r"(?s)ended with 3.*its mode is 0777"):
        daemon.start()
    assert victim.read_text() == "precious"
