"""Slot names in any script, and ignored names."""

import json
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.doctor import Doctor, not_ok
from tests.support.fib import FIB
from wasmdrop.client import submit

GOOD = {"entry": "fib", "args": [12]}


@pytest.mark.parametrize(
    "name", ["测试", "a b", "é", "e\u0301", "🦀", "'\"$(x)*?\\", "x" * 200, "測" * 73]
)
def test_slot_with_any_printable_name_runs(daemon: Daemon, name: str) -> None:
    """Dropped by hand and by the library, with every file at its own name."""
    assert daemon.submit(f"input-{name}.json", GOOD)["code"] == "ok"
    assert daemon.result(f"input-{name}.json")["results"] == [144]
    with submit(daemon.shared, GOOD, name) as job:
        assert job.result(60).results == (144,)
    assert list(daemon.shared.glob(f"*{name[-1]}.*")) == []


def test_slots_with_composed_and_decomposed_names_are_two(daemon: Daemon) -> None:
    """Names are bytes: neither takes the other's result."""
    for name, argument, value in (("é", 3, 2), ("e\u0301", 7, 13)):
        daemon.submit(f"input-{name}.json", {"entry": "fib", "args": [argument]})
        assert daemon.result(f"input-{name}.json")["results"] == [value]
    assert daemon.result("input-é.json")["results"] == [2]


@pytest.mark.parametrize("name", ["x" * 200, "測" * 73])
def test_slot_with_the_longest_name_can_set_a_directory_aside(daemon: Daemon, name: str) -> None:
    """A directory that has the name of the output."""
    output = daemon.result_path(f"input-{name}.json", ".output")
    output.mkdir()
    (output / "precious").write_text("precious")
    assert daemon.submit(f"input-{name}.json", GOOD)["code"] == "ok"
    assert [path.read_text() for path in daemon.shared.glob("*/precious")] == ["precious"]


def ignored(daemon: Daemon) -> list[str]:
    """Return the files that the log calls ignored, relative to both directories."""
    base = daemon.shared.parent
    return [str(Path(one["path"]).relative_to(base)) for one in daemon.events("name-ignored")]


@pytest.mark.parametrize("watch", ["events", "poll"])
def test_ignored_names_are_logged_once_and_counted_by_doctor(tmp_path: Path, watch: str) -> None:
    """Those that existed before the start, and those that appear. No scan logs one again."""
    doctor = Doctor(tmp_path)
    daemon = doctor.daemon
    daemon.environment |= {
        "WASMDROP_WATCH": watch,
        "WASMDROP_MAX_DEPTH": "1",
        "WASMDROP_POLL_SEC": "0.05",
        "WASMDROP_RESCAN_SEC": "3600" if watch == "events" else "60",
    }
    drop(daemon.wasm / "module.wasm", bytes(wat2wasm(FIB)))
    drop(daemon.shared / "Input.json", json.dumps(GOOD))
    drop(daemon.shared / "1/2/input.json", json.dumps(GOOD))
    expected = ["shared/1/2", "shared/Input.json"]
    with daemon.running():
        wait_until(lambda: sorted(ignored(daemon)) == expected, "what was there before")
        drop(daemon.wasm / "Calc.WASM", bytes(wat2wasm(FIB)))
        drop(daemon.shared / "input 1.json", json.dumps(GOOD))
        drop(daemon.shared / "2/input\u202e.json", json.dumps(GOOD))
        (daemon.shared / "1/3").mkdir()
        expected += ["shared/1/3", "shared/2/input\u202e.json", "shared/input 1.json"]
        expected = sorted([*expected, "wasm/Calc.WASM"])
        wait_until(lambda: sorted(ignored(daemon)) == expected, "what came later")
        for _ in range(5):  # and so at least five scans in poll mode
            daemon.submit("input.json", GOOD)
        assert sorted(ignored(daemon)) == expected
        assert "\u202e" not in daemon.log_text()
    status, found = doctor.examine()
    assert (status, not_ok(found)) == (0, {"names of files": "warning"})
    assert found["names of files"]["found"].startswith("6 ignored")
    assert "rename or move them" in found["names of files"]["advice"]
