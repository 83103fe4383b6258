"""The checker finds each kind of damage, and none in an intact daemon."""

import dataclasses
import hashlib
import json
import random
import sqlite3
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.daemon import drop, wait_until
from tests.support.durability.checker import (
    Evidence,
    Finding,
    Kind,
    check,
    check_slot_now,
    rows_of,
)
from tests.support.durability.controls import check_controls
from tests.support.durability.lives import Lives
from tests.support.durability.reloads import Reloads
from tests.support.receiver import Received


@pytest.fixture
def lives(tmp_path: Path) -> Lives:
    """Give a daemon that has served three slots and was stopped; ``old/`` has an earlier result."""
    lives = Lives(tmp_path)
    producer = lives.producer
    producer.module(lives.wasm / "m.wasm")
    lives.start()
    producer.drop("input-a.json", producer.version())
    producer.drop("input-b.json", producer.version(code="trap"))
    producer.drop("input-c.json", producer.version(code="invalid-input"))
    wait_until(lambda: lives.marker("input-a.json"), "the first result")
    (tmp_path / "old").mkdir()
    for name in ("result-a.json", "result-a.txt", "result-a.done"):
        (tmp_path / "old" / name).write_bytes((lives.shared / name).read_bytes())
    producer.drop("input-a.json", producer.version())
    assert lives.verdict() == []
    return lives


def sql(lives: Lives, statement: str) -> None:
    """Change the journal."""
    with closing(sqlite3.connect(lives.state / "journal.sqlite")) as connection, connection:
        connection.execute(statement)


def _no_marker(lives: Lives) -> None:
    (lives.shared / "result-a.done").unlink()


def _an_open_job(lives: Lives) -> None:
    sql(lives, "UPDATE jobs SET state = 'running' WHERE seq = 1")


def _a_job_given_up(lives: Lives) -> None:
    sql(lives, "UPDATE jobs SET state = 'discarded' WHERE seq = 1")


def _a_job_cancelled_by_a_request_before_it(lives: Lives) -> None:
    lives.producer.slots["input-a.json"].cancellable = 1
    sql(lives, "UPDATE jobs SET code = 'cancelled' WHERE seq = (SELECT max(seq) FROM jobs)")


def _a_job_cancelled_without_a_request(lives: Lives) -> None:
    sql(lives, "UPDATE jobs SET code = 'cancelled' WHERE seq = 1")


def _a_vanished_job(lives: Lives) -> None:
    sql(lives, "DELETE FROM jobs WHERE seq = 1")


def _a_drop_never_taken(lives: Lives) -> None:
    lives.producer.drop("input-a.json", lives.producer.version())


def _the_same_bytes_never_taken(lives: Lives) -> None:
    lives.producer.drop_again("input-a.json")


def _a_job_twice(lives: Lives) -> None:
    columns = "slot, state, code, job, input, package"
    sql(
        lives,
        f"INSERT INTO jobs (id, {columns}) SELECT 'again', {columns} FROM jobs"  # noqa: S608 - constants
        " WHERE slot = CAST('input-b.json' AS BLOB)",
    )


def _an_old_version_late(lives: Lives) -> None:
    columns = "slot, state, code, job, input, package"
    sql(
        lives,
        f"INSERT INTO jobs (id, {columns}) SELECT 'again', {columns} FROM jobs"  # noqa: S608 - constants
        " WHERE slot = CAST('input-a.json' AS BLOB) ORDER BY seq LIMIT 1",
    )


def _half_a_result(lives: Lives) -> None:
    path = lives.shared / "result-a.json"
    path.write_bytes(path.read_bytes()[:-3])


def _half_a_marker(lives: Lives) -> None:
    path = lives.shared / "result-a.done"
    path.write_bytes(path.read_bytes()[:50])


def _a_missing_file(lives: Lives) -> None:
    (lives.shared / "result-a.txt").unlink()


def _one_file_of_an_earlier_job(lives: Lives) -> None:
    old = lives.shared.parent / "old"
    (lives.shared / "result-a.json").write_bytes((old / "result-a.json").read_bytes())


def _a_whole_earlier_result(lives: Lives) -> None:
    for file in (lives.shared.parent / "old").iterdir():
        (lives.shared / file.name).write_bytes(file.read_bytes())


def _a_file_that_the_marker_does_not_name(lives: Lives) -> None:
    (lives.shared / "result-a.stdout").write_bytes(b"of whom?")


def _a_job_of_an_unknown_input(lives: Lives) -> None:
    lives.producer.slots["input-b.json"].versions[:] = [lives.producer.version()]


def _a_job_of_an_unknown_slot(lives: Lives) -> None:
    del lives.producer.slots["input-b.json"]


def _a_marker_without_a_job(lives: Lives) -> None:
    sql(lives, "DELETE FROM jobs WHERE slot = CAST('input-b.json' AS BLOB)")


def _a_wrong_value(lives: Lives) -> None:
    path = lives.shared / "result-a.json"
    result = json.loads(path.read_bytes())
    data = json.dumps(result | {"results": [0]}).encode()
    marker = json.loads(path.with_suffix(".done").read_bytes())
    marker["files"]["result-a.json"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": 0}
    path.write_bytes(data)
    path.with_suffix(".done").write_text(json.dumps(marker))


def _a_wrong_code(lives: Lives) -> None:
    path = lives.shared / "result-b.done"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"code": "ok"}))


def _a_temporary_file(lives: Lives) -> None:
    (lives.shared / ".wasmdrop-00-1").touch()


def _a_copy_of_a_module(lives: Lives) -> None:
    (lives.state / "modules" / ".wasmdrop-00-1").touch()


def _a_compilers_output(lives: Lives) -> None:
    (next((lives.state / "code").iterdir()) / f".{'0' * 64}-plain").touch()


DAMAGES: list[tuple[Kind, Callable[[Lives], None]]] = [
    (Kind.LOST, _no_marker),
    (Kind.LOST, _an_open_job),
    (Kind.LOST, _a_job_given_up),
    (Kind.LOST, _a_vanished_job),
    (Kind.LOST, _a_drop_never_taken),
    (Kind.LOST, _the_same_bytes_never_taken),
    (Kind.DOUBLED, _a_job_twice),
    (Kind.DOUBLED, _an_old_version_late),
    (Kind.TORN, _half_a_result),
    (Kind.TORN, _half_a_marker),
    (Kind.TORN, _a_missing_file),
    (Kind.TORN, _one_file_of_an_earlier_job),
    (Kind.FOREIGN, _a_whole_earlier_result),
    (Kind.FOREIGN, _a_file_that_the_marker_does_not_name),
    (Kind.FOREIGN, _a_job_of_an_unknown_input),
    (Kind.FOREIGN, _a_job_of_an_unknown_slot),
    (Kind.FOREIGN, _a_marker_without_a_job),
    (Kind.WRONG, _a_wrong_value),
    (Kind.WRONG, _a_wrong_code),
    (Kind.WRONG, _a_job_cancelled_by_a_request_before_it),
    (Kind.WRONG, _a_job_cancelled_without_a_request),
    (Kind.LEFTOVER, _a_temporary_file),
    (Kind.LEFTOVER, _a_copy_of_a_module),
    (Kind.LEFTOVER, _a_compilers_output),
]


def kinds(findings: list[Finding]) -> set[Kind]:
    """Return what kinds of damage were found."""
    return {finding.kind for finding in findings}


@pytest.mark.parametrize(
    ("kind", "damage"), DAMAGES, ids=[damage.__name__.strip("_") for _kind, damage in DAMAGES]
)
def test_checker_finds_each_kind_of_damage(
    lives: Lives, kind: Kind, damage: Callable[[Lives], None]
) -> None:
    """Each case damages one thing that a real daemon has written."""
    damage(lives)
    assert kind in kinds(check(lives.evidence()))


def with_lines(lives: Lives, lines: list[str], kills: int = 0, deaths: int = 0) -> Evidence:
    """Return the evidence with other result lines."""
    return dataclasses.replace(lives.evidence(), lines=lines, kills=kills, deaths=deaths)


def test_checker_counts_result_lines(lives: Lives) -> None:
    """One per job; a kill or a dead worker may lose one; no foreign or broken lines."""
    lines = lives.lines()
    assert check(with_lines(lives, lines)) == []
    assert kinds(check(with_lines(lives, lines[1:]))) == {Kind.LOST}
    assert kinds(check(with_lines(lives, [*lines, lines[0]]))) == {Kind.DOUBLED}
    assert check(with_lines(lives, lines[1:], kills=1)) == []
    assert check(with_lines(lives, lines[1:], deaths=1)) == []
    assert kinds(check(with_lines(lives, [*lines, lines[0]], kills=1))) == {Kind.DOUBLED}
    assert kinds(check(with_lines(lives, [*lines, lines[0]], deaths=1))) == {Kind.DOUBLED}
    assert kinds(check(with_lines(lives, [*lines, '{"args":[999]}'], kills=1))) == {Kind.FOREIGN}
    assert kinds(check(with_lines(lives, [*lines, lines[0][:9]], kills=1))) == {Kind.TORN}


def test_checker_demands_a_run_of_the_last_module(lives: Lives) -> None:
    """A drop of a module allows one more run."""
    producer = lives.producer
    drop(lives.wasm / "module.wasm", (lives.wasm / "m.wasm").read_bytes())
    producer.drop("input.json", producer.version(module=None))
    lives.start()
    lives.settle()
    before = lives.evidence()
    assert check(before) == []
    producer.module(lives.wasm / "module.wasm", "input.json")
    # The daemon may be copying the module this very moment.
    assert kinds(check(before)) - {Kind.LEFTOVER} == {Kind.LOST}
    assert lives.verdict() == []
    producer.slots["input.json"].reruns = 0
    assert kinds(check(lives.evidence())) == {Kind.DOUBLED}


def test_check_slot_now_requires_true_markers_only(lives: Lives) -> None:
    """Without a marker a slot may hold anything."""
    assert check_slot_now(lives.shared, "input-a.json") is None
    assert check_slot_now(lives.shared, "input-never.json") is None
    _one_file_of_an_earlier_job(lives)
    found = check_slot_now(lives.shared, "input-a.json")
    assert found is not None
    assert found.kind is Kind.TORN
    _no_marker(lives)
    assert check_slot_now(lives.shared, "input-a.json") is None


def test_checker_accepts_a_discarded_job_of_a_default_module(tmp_path: Path) -> None:
    """A default module may be dropped long before its input."""
    lives = Lives(tmp_path)
    lives.start()
    lives.producer.module(lives.wasm / "module.wasm")
    wait_until(lambda: lives.events("module-input-missing"), "the module's own run")
    lives.producer.drop("input.json", lives.producer.version(module=None))
    assert lives.verdict() == []


@pytest.mark.parametrize("reruns", [0, 1])
def test_checker_accepts_a_rerun_discarded_after_the_same_job(lives: Lives, reruns: int) -> None:
    """Only if a module was dropped: the same bytes that were dropped again must run again."""
    lives.producer.slots["input-b.json"].reruns = reruns
    _a_job_twice(lives)
    sql(lives, "UPDATE jobs SET state = 'discarded', code = NULL WHERE id = 'again'")
    kinds = {finding.kind for finding in check(lives.evidence())}
    assert kinds == (set() if reruns else {Kind.LOST, Kind.DOUBLED, Kind.FOREIGN})


def test_limits_of_two_configuration_files_in_one_job_are_found(tmp_path: Path) -> None:
    """And those of a file that was wrong."""
    lives = Lives(tmp_path, WASMDROP_ATTEMPTS="100")
    reloads = Reloads(lives, random.Random(1))  # noqa: S311 - a test's dice
    reloads.write()
    values = tomllib.loads((tmp_path / "config.toml").read_text())
    limits = {name: values[name] for name in ("timeout_sec", "memory_mb", "output_mb", "disk_mb")}
    limits["fuel"] = None if values["fuel"] == "none" else values["fuel"]

    def found(**changed: object) -> list[Finding]:
        marker = {"job": "one", "limits": limits | changed}
        return list(reloads.check([json.dumps(marker).encode()]))

    assert not found()
    assert found(disk_mb=65)
    assert found(timeout_sec=100_000)
    (tmp_path / "log-1").write_text('{"event":"reload-failed"}')
    assert found()


def test_checker_demands_the_files_that_a_job_leaves(lives: Lives) -> None:
    """Each with its content."""
    versions = lives.producer.slots["input-a.json"].versions
    versions[-1] = dataclasses.replace(versions[-1], output=(("in", "0" * 64),))
    assert kinds(check(lives.evidence())) == {Kind.WRONG}


def test_checker_counts_attempts(lives: Lives) -> None:
    """A job whose attempts nothing explains is a fault."""
    assert check(dataclasses.replace(lives.evidence(), most_attempts=1)) == []
    found = check(dataclasses.replace(lives.evidence(), most_attempts=0))
    assert kinds(found) == {Kind.WRONG}


def test_checker_of_controls_finds_each_kind_of_damage(lives: Lives, tmp_path: Path) -> None:
    """Events, archived inputs and confirmed cancellations."""
    markers = [*lives.shared.glob("*.done"), *(tmp_path / "old").glob("*.done")]
    bodies = {str(json.loads(one.read_bytes())["job"]): one.read_bytes() for one in markers}
    evidence, producer = lives.evidence(), lives.producer
    last = next(row for row in rows_of(lives.state, last_only=True) if row.slot == "input-a.json")

    def found(told: dict[str, bytes] = bodies) -> list[tuple[Kind, str]]:
        requests = [Received("", {"ce-id": job}, body) for job, body in told.items()]
        findings = check_controls(evidence, requests, is_archiving=True)
        return [(finding.kind, finding.where) for finding in findings]

    assert found() == []
    assert found({job: body for job, body in bodies.items() if job != last.id}) == [
        (Kind.LOST, "input-a.json"),
        (Kind.WRONG, str(lives.shared / "result-a.done")),
    ]
    changed = bodies[last.id].replace(b'"attempt":1', b'"attempt":2')
    assert found(bodies | {last.id: changed}) == [(Kind.WRONG, str(lives.shared / "result-a.done"))]
    producer.cancelled.add(last.id)
    assert found() == [(Kind.WRONG, last.id)]
    producer.cancelled.clear()
    input_, archive = lives.shared / "input-a.json", lives.shared / "done"
    data = input_.read_bytes()
    input_.unlink()
    assert found() == [(Kind.LOST, "input-a.json")]
    archive.mkdir()
    (archive / f"{last.id}-input-a.json").write_bytes(data)
    assert found() == []
    (archive / f"{last.id}-input-a.json").write_bytes(b"{}")
    assert found() == [(Kind.LOST, "input-a.json")]
