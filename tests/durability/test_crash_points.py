"""Crash points: the daemon dies at each write, and the next daemon recovers.

The points are found in the source. Each is tried before and after its call, and halfway through a
write. Before the next start every marker must be true. Afterwards nothing may be lost, doubled,
torn or left behind, and the completion hook must have got the marker of each delivered job.

At the points of a delivery worker, the daemon dies with the worker; in a second test only the
worker dies, and the daemon starts another one.
"""

import hashlib
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import DEADLINE_SECONDS, wait_until
from tests.support.durability import dying
from tests.support.durability.checker import Kind, check_slot_now, rows_of
from tests.support.durability.lives import Lives
from tests.support.durability.points import Point, find_points, kill_plan
from tests.support.durability.trace import command, read_trace
from tests.support.markers import a_marker
from tests.support.require import require_tools
from wasmdrop.jobs.journal.database import open_for_reading

#: Calls of a point that are tried: files of a delivery or states of a job may differ.
_TURNS: Final = {"commit": 6, "fsync": 3, "replace": 3, "unlink": 3, "write": 3, "write_all": 3}
_ONCE: Final = {
    "service.instance_lock._InstanceLock._own_file:unlink",
    "service.instance_lock._InstanceLock._try:unlink",
    "delivery.placement.Placement._rename:replace-2",
    "delivery.placement.Placement.close:unlink",
    "system.durable_files.replace_file:unlink",
    "system.durable_files.sync_directory:fsync",
    "jobs.journal.writer.Journal.remove_results:unlink",
    "jobs.journal.database._migrate:commit",
    "system.private_files.remove:unlink",
    "sandbox.host.compilation.ModuleCompiler._compile_in_slot:unlink",
    "sandbox.host.compilation._sync:fsync",
    "sandbox.host.module_cache.cache.ModuleCache.keep:replace",
    "intake.scanner._remove_leftovers:unlink",
    "service.cancel_requests.CancelRequests._remove:unlink",
    "fleet.daemon.tickets._create:unlink",
    "fleet.daemon.tickets._create:fsync",
}
#: Points that are reached only after a failure at another one.
_AFTER: Final = {
    "delivery.placement.Placement.close:unlink": "delivery.placement.Placement._rename:replace",
    "system.durable_files.replace_file:unlink": "system.durable_files.replace_file:replace",
}

#: Prints a line. No kill tears it, because a file or a pipe takes it at once (pipe(7)).
_LINE: Final = "system.output_thread.OutputThread._write:write"

#: Modules of which other tests kill the daemon at the writes.
_TESTED_ELSEWHERE: Final = ("retention.", "system.renaming.")

_POINTS: Final = {
    str(point): point for point in find_points() if not str(point).startswith(_TESTED_ELSEWHERE)
}
#: Modules that delivery workers run.
_DELIVERY_MODULES: Final = (
    "delivery.",
    "system.output_thread.",
    "system.tree_removal.",
    "system.untrusted_trees.",
)
_OF_DELIVERY: Final = [name for name in _POINTS if name.startswith(_DELIVERY_MODULES)]


def _cases(names: Iterable[str]) -> list[tuple[str, int, str]]:
    found = []
    for name in names:
        what = name.partition(":")[2].partition("-")[0]
        turns = 1 if name in _ONCE else _TURNS.get(what, 1)
        # Nothing is written between two calls, so only the first one is tried before it.
        found.append((name, 1, "before"))
        is_divided = what in {"write", "write_all"} and name != _LINE
        moments = ("halfway", "after") if is_divided else ("after",)
        found += [(name, turn, moment) for turn in range(1, turns + 1) for moment in moments]
    return found


def _plan(name: str, turn: int, moment: str, note: Path | None = None) -> str:
    point = _POINTS[name]
    failing: Point | None = _POINTS[_AFTER[name]] if name in _AFTER else None
    return kill_plan(
        *(point, moment, turn),
        failing=failing and (failing.file, failing.first_line, failing.last_line),
        note=None if note is None else str(note),
    )


def _leave_an_earlier_life(lives: Lives) -> None:
    """Create results, directories and leftovers of earlier daemons."""
    result = b"of an earlier life\n"
    digest = hashlib.sha256(result).hexdigest()
    files = {"result-a.json": {"sha256": digest, "bytes": len(result)}}
    marker = a_marker(files, job="earlier", slot="input-a.json")
    (lives.shared / "result-a.json").write_bytes(result)
    (lives.shared / "result-a.done").write_text(json.dumps(marker))
    (lives.shared / "result-taken.json" / "kept").mkdir(parents=True)
    (lives.shared / "result-taken.txt").mkdir()
    (lives.shared / ".wasmdrop-0-0").touch()
    os.mkfifo(lives.shared / ".wasmdrop.lock")
    modules, code = lives.state / "modules", lives.state / "code"
    results, requests = lives.state / "undelivered", lives.state / "cancel"
    for directory in (lives.state, modules, code, code / ("0" * 16), results, requests):
        directory.mkdir(mode=0o700)
    (lives.state / "lock").touch()
    (results / "earlier").touch()
    (requests / "20000101T000000Z-0123456789").touch()
    (modules / ".wasmdrop-0-0").touch()
    (code / ("0" * 16) / ".wasmdrop-0-0").touch()


@contextmanager
def _damaged_journal(state: Path) -> Iterator[None]:
    """Create a corrupt journal, and keep it open, so that its log stays."""
    path = state / "journal.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE jobs (id TEXT)")
    data = bytearray(path.read_bytes())
    page_bytes = 4096
    data[page_bytes : 2 * page_bytes] = b"\xff" * page_bytes
    path.write_bytes(data)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM sqlite_schema").fetchall()
        yield


def _work(lives: Lives, has_happened: Callable[[], bool]) -> bool:
    """Do drops that cause all writes of a daemon; return ``has_happened()``."""
    producer = lives.producer
    producer.drop("input-a.json", producer.version())
    if not _await(lives, "input-a.json"):
        producer.drop("input-a.json", producer.version(code="trap"))
        producer.drop("input-b.json", producer.version(code="invalid-input"))
        producer.drop("input-taken.json", producer.version())
        producer.drop("input.json", producer.version(module=None))
        # So many that the copy syncs them itself, unlike the few files below.
        many = {"in": "a", "deep/er/in": "a"} | {f"more/{number}": "a" for number in range(8)}
        producer.drop("input-files.json", producer.version(module="files", files=many))
        leaves_nothing = producer.version(module="files", files={"in": "a"}, turns=2)
        producer.drop("input-empty.json", leaves_nothing)
        for name in list(producer.slots):
            _await(lives, name)
        for text in ("b", "c"):  # each replaces the one before
            deep = {"in": text, "deep/er/in": text}
            producer.drop("input-files.json", producer.version(module="files", files=deep))
            _await(lives, "input-files.json")
        producer.module(lives.wasm / "module.wasm", "input.json")
        producer.module(lives.wasm / "m.wasm")
        producer.drop("input-a.json", producer.version())
        _await(lives, "input-a.json")
    end = time.monotonic() + _PATIENCE_SECONDS
    while not has_happened() and time.monotonic() < end:
        time.sleep(0.01)
    return has_happened()


#: How long to wait for a point after all work was done.
_PATIENCE_SECONDS: Final = 10.0


def _await(lives: Lives, name: str) -> bool:
    """Wait for the result of the last drop of ``name``; return whether the daemon died before."""
    wanted = lives.producer.slots[name].versions[-1].sha256
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end and not lives.has_died():
        marker = lives.marker(name)
        if marker is not None and (marker.get("input") or {}).get("sha256") == wanted:
            return False
        time.sleep(0.005)
    return lives.has_died()


def _prepared(base: Path, name: str) -> Lives:
    lives = Lives(base, WASMDROP_SETTLE_SEC="0.02")
    hook = base / "hook"
    hook.write_text(f'#!/bin/sh\nexec cat >> "{base}/{_HOOKED}"\n')
    hook.chmod(0o755)
    lives.environment["WASMDROP_ON_FINISHED"] = str(hook)
    if name.startswith("fleet."):
        lives.environment["WASMDROP_FLEET"] = "nats://127.0.0.1:1"
    if not name.endswith(":mkdir"):
        _leave_an_earlier_life(lives)
        if name.startswith("fleet."):
            (lives.state / ".fleet-secret").touch()
    lives.producer.module(lives.wasm / "m.wasm")
    lives.producer.module(lives.wasm / "files.wasm", keeps_files=True)
    lives.producer.module(lives.wasm / "module.wasm", "input.json")
    return lives


#: The markers that the completion hook got.
_HOOKED: Final = "hooked"


def _await_hooks(lives: Lives, base: Path) -> None:
    """Wait until no event is left; the hook must have got each delivered job."""

    def has_no_event() -> bool:
        with closing(open_for_reading(lives.state / "journal.sqlite")) as connection:
            count: int = connection.execute("SELECT count(*) FROM events").fetchone()[0]
            return count == 0

    lives.settle()
    wait_until(has_no_event, f"all events: {lives.log_text()[-2000:]}")
    lines = (base / _HOOKED).read_text().splitlines()
    hooked = {json.loads(line)["job"] for line in lines}
    delivered = {row.id for row in rows_of(lives.state) if row.state == "delivered"}
    assert hooked >= delivered, f"{delivered - hooked} were forgotten"


@pytest.mark.parametrize(("name", "turn", "moment"), _cases(_POINTS))
def test_daemon_killed_at_a_write_leaves_true_markers(
    tmp_path: Path, name: str, turn: int, moment: str
) -> None:
    """The next daemon completes all jobs."""
    lives = _prepared(tmp_path, name)
    lives.prefix = (sys.executable, dying.__file__, _plan(name, turn, moment))
    is_damaged = name.startswith("jobs.journal.database._set_aside")
    with _damaged_journal(lives.state) if is_damaged else nullcontext():
        lives.launch()
        assert _work(lives, lives.has_died), f"{name} was not reached: {lives.log_text()[-4000:]}"
    assert lives.process is not None
    assert lives.process.wait() == -signal.SIGKILL, lives.log_text()[-4000:]
    lives.note_death()
    for slot in lives.producer.slots:
        assert check_slot_now(lives.shared, slot) is None
    lives.prefix = ()
    if not (lives.state / ".fleet-secret").exists():
        lives.environment.pop("WASMDROP_FLEET", None)  # its jobs would wait until it is away
    lives.start()
    _await_hooks(lives, tmp_path)
    assert lives.verdict() == []


def test_restart_syncs_an_unsynced_marker_before_it_closes_the_job(tmp_path: Path) -> None:
    """Otherwise a power cut could lose the marker of a job that the journal has closed."""
    require_tools("strace")
    lives = Lives(tmp_path, WASMDROP_SETTLE_SEC="0.02")
    lives.producer.module(lives.wasm / "m.wasm")
    its_marker = _plan("delivery.placement.Placement._rename:replace", 3, "after")
    lives.prefix = (sys.executable, dying.__file__, its_marker)
    lives.launch()
    lives.producer.drop("input-a.json", lives.producer.version())
    assert lives.process is not None
    assert lives.process.wait(DEADLINE_SECONDS) == -signal.SIGKILL
    assert lives.marker("input-a.json") is not None
    trace = tmp_path / "trace"
    lives.prefix = command(trace)
    lives.start()
    lives.settle()
    tracer = lives.process
    assert tracer is not None
    children = Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    assert tracer.wait(DEADLINE_SECONDS) == 0, lives.log_text()
    assert lives.events("job-already-delivered")
    synced = [call.path(0) for call in read_trace(trace) if call.name in {"fsync", "fdatasync"}]
    closed = next(at for at, path in enumerate(synced) if path.endswith("journal.sqlite-wal"))
    assert str(lives.shared) in synced[:closed]


@pytest.mark.parametrize(("name", "turn", "moment"), _cases(_OF_DELIVERY))
def test_worker_killed_at_a_write_is_replaced(
    tmp_path: Path, name: str, turn: int, moment: str
) -> None:
    """The daemon delivers each job once. The next start removes leftovers."""
    lives = _prepared(tmp_path, name)
    note = tmp_path / "died"
    lives.prefix = (sys.executable, dying.__file__, _plan(name, turn, moment, note))
    lives.launch()
    assert _work(lives, lambda: bool(lives.events("delivery-worker-died"))), lives.log_text()[
        -4000:
    ]
    assert note.exists(), lives.log_text()[-4000:]
    for slot in lives.producer.slots:
        assert check_slot_now(lives.shared, slot) is None
    lives.deaths = 1
    findings = lives.verdict()
    assert [one for one in findings if one.kind is not Kind.LEFTOVER] == []
    assert len(lives.events("delivery-worker-died")) == 1
    lives.prefix = ()
    lives.start()
    assert lives.verdict() == []


def test_tables_name_only_existing_points() -> None:
    """A renamed function would otherwise drop out of a table silently."""
    assert _POINTS.keys() >= _ONCE | _AFTER.keys() | set(_AFTER.values()) | {_LINE}


def test_find_points_returns_all_writes(tmp_path: Path) -> None:
    """By module, function and call."""
    (tmp_path / "a.py").write_text(
        "import os\n"
        "class C:\n"
        "    def f(self, path, text):\n"
        "        os.fsync(1); os.fsync(2)\n"
        "        path.replace(other); text.replace('a', 'b'); evolve.replace(job, state=1)\n"
        "        path.unlink(); self.unlink(); os.stat(path)\n"
        "        db.execute('COMMIT'); db.execute('BEGIN')\n"
    )
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "b.py").write_text("import os\nos.unlink('x')\n")
    assert [str(point) for point in find_points(tmp_path)] == [
        "a.C.f:fsync",
        "a.C.f:fsync-2",
        "a.C.f:replace",
        "a.C.f:unlink",
        "a.C.f:commit",
    ]
