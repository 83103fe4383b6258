"""Crash points of retention: the daemon dies at each write, and the next one completes the work.

No drop is lost or run twice, no file of others is removed, and nothing is left behind.
"""

import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from tests.support.daemon import DEADLINE_SECONDS, wait_until
from tests.support.durability import dying
from tests.support.durability.checker import rows_of
from tests.support.durability.lives import Lives
from tests.support.durability.points import Point, find_points, kill_plan

#: Slots that finish in the first life, and what their jobs end as. Retention takes them in the
#: order of their names, and dies at the first ones.
_SLOTS: Final = {
    "input-0.json": "ok",
    "input-1.json": "invalid-input",
    "input-2-files.json": "ok",
    **{f"input-{number}.json": "ok" for number in range(3, 8)},
    "input-8.json": "invalid-input",
}

#: Files that retention must leave alone.
_FOREIGN: Final = ("result-other.json", "done/note", "input-0.json.note", "module.wasm.part")

#: Reached only if a filesystem has no renameat2(2), such as NFS.
_FALLBACK: Final = "system.renaming.rename_to_new:"

_POINTS: Final = {
    str(point): point
    for point in find_points()
    if str(point).startswith(("retention.", "system.renaming."))
    and not str(point).startswith(_FALLBACK)
}

#: Points in the order in which the daemon dies at them, each time at the next start.
_INPUTS: Final = "retention.withdrawal."
_OF_INPUTS: Final = (
    "InputDirectory.withdraw:rename",
    "_open_archive:mkdir",
    "InputDirectory._hide_ready:rename",
    "InputDirectory._keep_or_put_back:unlink",
    "InputDirectory._end_ready:unlink",
    "InputDirectory.recover:unlink",
    "InputDirectory.sync:fsync",
)
_OF_CANCEL_FILES: Final = "retention.withdrawal.InputDirectory.remove_cancel_file:unlink"
_SLOT: Final = "retention.slot_removal.SlotDirectory."
_OF_SLOTS: Final = (
    "resume:unlink",
    "begin:rename",
    "complete:fsync",
    "_empty:unlink",
    "_empty:rename",
    "complete:fsync-2",
    "complete:unlink",
)
_OF_ARCHIVES: Final = "retention.finished_slots._next:unlink"

#: The oldest slot that stays, in days: a second.
_ONE_SECOND: Final = "0.0000116"


def _prepared(base: Path, **settings: str) -> Lives:
    """Return a daemon with finished slots, and with these settings from now on."""
    # Each death may come while a job runs.
    lives = Lives(
        base,
        WASMDROP_SETTLE_SEC="0.02",
        WASMDROP_READY_SUFFIX=".ready",
        WASMDROP_ATTEMPTS="100",
    )
    producer, shared = lives.producer, lives.shared
    producer.module(lives.wasm / "m.wasm")
    producer.module(lives.wasm / "files.wasm", keeps_files=True)
    for name, code in _SLOTS.items():
        if "files" in name:
            version = producer.version(module="files", files={"in": "a", "deep/er/in": "a"})
        else:
            version = producer.version(code=code)
        (shared / f"{name}.ready").touch()
        producer.drop(name, version)
    with lives.running():
        lives.settle()
    for name in _FOREIGN:
        (shared / name).parent.mkdir(exist_ok=True)
        (shared / name).write_text("mine")
    lives.environment |= settings
    return lives


def _kill_at(lives: Lives, point: Point, moment: str) -> None:
    """Start the daemon and let it die at a point."""
    lives.prefix = (sys.executable, dying.__file__, kill_plan(point, moment))
    lives.launch()
    assert lives.process is not None
    try:
        status = lives.process.wait(DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        lives.kill()  # it did not reach the point
        raise
    assert status == -signal.SIGKILL, lives.log_text()[-4000:]
    lives.prefix = ()


def _drop(lives: Lives, name: str) -> None:
    """Drop an input that the next daemon finds."""
    lives.producer.drop(name, lives.producer.version())
    (lives.shared / f"{name}.ready").touch()


def _left(lives: Lives) -> set[str]:
    """Return the files in the shared directory that need not stay."""
    found = {path for path in lives.shared.rglob("*") if not path.is_dir()}
    names = {str(path.relative_to(lives.shared)) for path in found}
    return names - {*_FOREIGN, ".wasmdrop.lock"}


def _check_jobs(lives: Lives) -> None:
    """Check that each version ran once, and that files of others are as they were."""
    ran = Counter(row.sha256 for row in rows_of(lives.state))
    dropped = Counter(
        version.sha256 for record in lives.producer.slots.values() for version in record.versions
    )
    assert ran == dropped
    assert all((lives.shared / name).read_text() == "mine" for name in _FOREIGN)


def test_daemon_killed_at_each_write_for_an_input_loses_nothing(tmp_path: Path) -> None:
    """Inputs that are done go; inputs that are dropped between the kills run once."""
    lives = _prepared(tmp_path, WASMDROP_AFTER="remove")
    _kill_at(lives, _POINTS[f"{_INPUTS}InputDirectory.withdraw:rename"], "before")
    for number, name in enumerate(_OF_INPUTS):
        if name == "InputDirectory.recover:unlink":
            # Of an earlier daemon, that died before the producer dropped the input again.
            (lives.shared / ".removing-input-7.json").write_text("an old version")
        _kill_at(lives, _POINTS[f"{_INPUTS}{name}"], "after")
        _drop(lives, f"input-new-{number}.json")
    with lives.running():
        wait_until(lambda: not _hidden_or_inputs(lives), "the inputs to go")
    _check_jobs(lives)
    archived = {path.name.partition("-input-")[2] for path in (lives.shared / "failed").iterdir()}
    assert archived == {"1.json", "8.json"}
    assert (lives.shared / "failed").stat().st_mode == lives.shared.stat().st_mode


def _hidden_or_inputs(lives: Lives) -> set[str]:
    return {name for name in _left(lives) if name.startswith((".removing-", "input-"))}


def test_daemon_killed_at_each_write_for_a_slot_loses_nothing(tmp_path: Path) -> None:
    """All slots go, and so do archived inputs; files of others stay."""
    lives = _prepared(tmp_path, WASMDROP_KEEP_RESULTS_DAYS=_ONE_SECOND)
    shared = lives.shared
    archived = shared / "failed" / "20260101T000000Z-0123456789-input-9.json"
    archived.parent.mkdir()
    shutil.copy2(shared / "result-0.done", shared / ".removing-result-0.done")
    (shared / "input-last.json.cancel").touch()  # older than the drop, so that it cancels nothing
    for number, name in enumerate(_OF_SLOTS):
        _kill_at(lives, _POINTS[f"{_SLOT}{name}"], "after")
        _drop(lives, f"input-new-{number}.json")
    _drop(lives, "input-last.json")
    _kill_at(lives, _POINTS[_OF_CANCEL_FILES], "after")
    archived.touch()
    _kill_at(lives, _POINTS[_OF_ARCHIVES], "after")
    with lives.running():
        wait_until(lambda: not _left(lives), "the slots to go")
    _check_jobs(lives)


def test_drop_that_was_renamed_unread_runs_after_a_kill(tmp_path: Path) -> None:
    """It replaced the finished input directly before the rename."""
    lives = _prepared(tmp_path, WASMDROP_AFTER="remove")
    _kill_at(lives, _POINTS[f"{_INPUTS}InputDirectory.withdraw:rename"], "after")
    version = lives.producer.version()
    (lives.shared / ".removing-input-0.json").write_bytes(version.data)
    lives.producer.slots["input-0.json"].versions.append(version)
    with lives.running():
        wait_until(lambda: not _hidden_or_inputs(lives), "the inputs to go")
    _check_jobs(lives)


def test_all_points_of_retention_are_tried() -> None:
    """A new write is a new point."""
    tried = {_INPUTS + name for name in _OF_INPUTS} | {_SLOT + name for name in _OF_SLOTS}
    assert _POINTS.keys() == tried | {_OF_ARCHIVES, _OF_CANCEL_FILES}
