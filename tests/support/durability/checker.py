"""The checker: proves from the final state that no job was lost, doubled or torn.

It compares the shared directory, the journal, the result lines of all daemons and the producer's
record, and trusts none of them alone. At rest, when every job is final:

* Each accepted drop is one row of the journal in one final state. The rows of a slot are its
  versions in the order of their drops, each once, and once more for each module drop that reruns
  it.
* The last row of a slot is of the version that is present, and that very file was taken.
* A row is cancelled only if its input was removed or renamed away, or a cancel file or a request
  came later.
* Each slot holds one marker, of its last row, with true digests, and no file that the marker does
  not name. The values are those of that version and that module.
* No temporary file, directory of a job or request to cancel is left.

Each result line belongs to an accepted drop and is printed at most once. The marker is published
before the line is printed, and the line before the journal closes the job. A daemon that dies
between the first two omits the line, at most once per job: the result is in place and the next
start closes the job. A daemon that dies between the last two finds the marker at its next start and
prints no second line. The same holds if a delivery worker dies. (If a consumer removes the marker
at that moment the job runs again; none does here.) Without a kill each job has exactly one line.
"""

import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from tests.support.durability.producer import Producer, SlotRecord, Version

_TEMPORARY: Final = (".wasmdrop-", ".removing-")
_FINAL: Final = {"delivered", "discarded"}
_VERSION_BYTES: Final = 32
#: Jobs that are not final, and events that the hook has not taken.
_OPEN: Final = (
    "SELECT count(*) FROM jobs WHERE state NOT IN ('delivered', 'discarded')"
    " UNION ALL SELECT count(*) FROM events"
)


class Kind(StrEnum):
    """A kind of damage."""

    LOST = "lost"
    DOUBLED = "doubled"
    TORN = "torn"
    FOREIGN = "foreign"
    WRONG = "wrong"
    LEFTOVER = "leftover"


@dataclass(frozen=True)
class Finding:
    """One fault."""

    kind: Kind
    where: str
    what: str


@dataclass(frozen=True)
class Row:
    """One row of the journal."""

    id: str
    slot: str
    state: str
    sha256: str | None
    module: str | None
    code: str | None


@dataclass
class Evidence:
    """Everything that the checker compares."""

    shared: Path
    wasm: Path
    state: Path
    producer: Producer
    lines: list[str] = field(default_factory=list)
    """The result lines of all daemons."""
    kills: int = 0
    """Daemons that were killed."""
    deaths: int = 0
    """Delivery workers that died while the daemon ran."""
    witnessed: set[str] = field(default_factory=set)
    """Jobs that were accepted by a log, or by the journal after a kill."""
    most_attempts: int | None = None
    """Attempts that a job may have had, unless it ended because all failed; None for any."""


def rows_of(state: Path, *, last_only: bool = False) -> list[Row]:
    """Return the rows of the journal in the order of their drops, or the last one of each slot."""
    where = " WHERE seq IN (SELECT max(seq) FROM jobs GROUP BY slot)" if last_only else ""
    columns = "id, slot, state, job, code"
    found = _read_journal(state, f"SELECT {columns} FROM jobs{where} ORDER BY seq")  # noqa: S608 - constants
    return [_row(*columns) for columns in found]


def without_superfluous(rows: list[Row], producer: Producer) -> list[Row]:
    """Return the rows without those that may be discarded: they owed nothing.

    These are jobs without an input, and reruns after a job that did their work.

    A rerun that waits for room in the queue comes after the next drop, which finds the new module.
    """
    rerun = {name for name, record in producer.slots.items() if record.reruns}
    last: dict[str, Row] = {}
    kept = []
    for row in rows:
        if row.sha256 is None and row.state != "delivered":
            # A default module without input is run alone; its job is discarded if it needs one.
            continue
        before = last.get(row.slot)
        work = (row.sha256, row.module)
        is_same = before is not None and work == (before.sha256, before.module)
        if is_same and row.state == "discarded" and row.slot in rerun:
            continue
        last[row.slot] = row
        kept.append(row)
    return kept


def job_count(state: Path) -> int:
    """Return the number of accepted jobs."""
    return sum(count for (count,) in _read_journal(state, "SELECT count(*) FROM jobs"))


def open_count(state: Path) -> int:
    """Return the number of jobs that are not final, and of events that the hook has not taken."""
    return sum(count for (count,) in _read_journal(state, _OPEN))


def is_at_rest(evidence: Evidence) -> bool:
    """Whether every job is final and every present version was taken."""
    try:
        taken = _taken(evidence.state)
        last = {row.slot: row for row in rows_of(evidence.state, last_only=True)}
        # Counted last: a job may be accepted, and its version taken, in between.
        if open_count(evidence.state):
            return False
    except sqlite3.OperationalError:
        return False  # the daemon is creating the journal
    return all(
        _is_taken(evidence.shared / name, taken) and _ran_its_module(record, last.get(name))
        for name, record in evidence.producer.slots.items()
        if record.is_present and not _was_moved(evidence, name)
    )


def check(evidence: Evidence) -> list[Finding]:
    """Return all faults. Call it when the daemon is at rest."""
    rows = rows_of(evidence.state)
    by_slot: dict[str, list[Row]] = {}
    ids = {row.id for row in rows}
    rows = without_superfluous(rows, evidence.producer)
    for row in rows:
        by_slot.setdefault(row.slot, []).append(row)
    findings = [
        Finding(Kind.LOST, row.slot, f"job {row.id} is still {row.state}")
        for row in rows
        if row.state not in _FINAL
    ]
    findings += [
        Finding(Kind.LOST, job, "was accepted and is not in the journal")
        for job in sorted(evidence.witnessed - ids)
    ]
    findings += [
        Finding(Kind.FOREIGN, name, "the journal has a job of a slot that was never dropped")
        for name in sorted(by_slot.keys() - evidence.producer.slots.keys())
    ]
    taken = _taken(evidence.state)
    for name, record in evidence.producer.slots.items():
        its_rows = by_slot.get(name, [])
        findings += _check_rows(name, record, its_rows, evidence)
        findings += _check_slot(evidence, name, record, its_rows, taken)
    findings += _check_lines(evidence, rows)
    findings += _check_leftovers(evidence)
    return findings


def check_slot_now(shared: Path, name: str) -> Finding | None:
    """Return a fault if the slot holds a marker that is not true. The daemon may be running.

    Returns None if the marker is replaced meanwhile.
    """
    marker_path = _result(shared, name, ".done")
    try:
        before = marker_path.read_bytes()
        marker = json.loads(before)
        for file, entry in marker["files"].items():
            data = (marker_path.parent / file).read_bytes()
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                problem = f"{file} is not what the marker says"
                break
        else:
            return None
    except FileNotFoundError as error:
        if error.filename == str(marker_path):
            return None
        problem = f"the marker names {error.filename}, which is not there"
    except (ValueError, LookupError, TypeError) as error:
        return Finding(Kind.TORN, name, f"the marker can't be read: {error}")
    try:
        is_same = marker_path.read_bytes() == before
    except FileNotFoundError:
        return None
    return Finding(Kind.TORN, name, problem) if is_same else None


def _row(job: str, slot: bytes, state: str, text: str, code: str | None) -> Row:
    value = json.loads(text)
    return Row(
        job,
        os.fsdecode(slot),
        state,
        (value["input"] or {}).get("sha256"),
        (value["module"] or {}).get("sha256"),
        code,
    )


def _taken(state: Path) -> dict[str, bytes]:
    found = _read_journal(state, "SELECT path, version FROM taken")
    return {os.fsdecode(path): version for path, version in found}


def _read_journal(state: Path, query: str) -> list[Any]:
    """Return the rows of a query; none if there is no journal yet.

    Opens the journal read-only: closing a writable connection would repair what the daemon has to
    repair after a kill.
    """
    path = state / "journal.sqlite"
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            return []
        return connection.execute(query).fetchall()


def _was_moved(evidence: Evidence, name: str) -> bool:
    """Whether the daemon has moved or removed the input of a slot."""
    return evidence.producer.loses_inputs and not (evidence.shared / name).exists()


def _is_taken(path: Path, taken: dict[str, bytes]) -> bool:
    found = taken.get(str(path), b"")
    if path.is_symlink():  # in a volume, only another content is another version
        return found[_VERSION_BYTES:] == hashlib.sha256(path.read_bytes()).digest()[:8]
    try:
        status = path.stat()
    except FileNotFoundError:
        return False  # moved a moment ago
    numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    packed = b"".join((number % (1 << 64)).to_bytes(8, "little") for number in numbers)
    return found[:_VERSION_BYTES] == packed


def _ran_its_module(record: SlotRecord, row: Row | None) -> bool:
    if record.own_module is None or record.versions[-1].names_module:
        return True
    return row is not None and (row.module is None or row.module == record.own_module)


def _check_rows(
    name: str, record: SlotRecord, rows: list[Row], evidence: Evidence
) -> Iterator[Finding]:
    """Compare the rows of a slot with its versions: in order, each once, and once per rerun."""
    digests = [version.sha256 for version in record.versions]
    # A kill may come between the reruns for a module and the record that its drop was taken.
    reruns = record.reruns + evidence.kills if record.reruns else 0
    position = -1
    for row in rows:
        if row.state == "discarded":
            yield Finding(Kind.LOST, name, f"job {row.id} was given up")
        if row.sha256 not in digests:
            yield Finding(Kind.FOREIGN, name, f"job {row.id} has an input that was never dropped")
        elif row.sha256 in digests[position + 1 :]:
            position = digests.index(row.sha256, position + 1)
        elif position >= 0 and digests[position] == row.sha256 and reruns > 0:
            reruns -= 1
        else:
            number = record.versions[digests.index(row.sha256)].number
            yield Finding(Kind.DOUBLED, name, f"version {number} ran once too often, or too late")
        is_asked = position < record.cancellable or row.id in evidence.producer.requested
        if row.code == "cancelled" and not is_asked:
            yield Finding(Kind.WRONG, name, f"job {row.id} was cancelled, and nothing asked for it")


def _check_slot(
    evidence: Evidence, name: str, record: SlotRecord, rows: list[Row], taken: dict[str, bytes]
) -> Iterator[Finding]:
    if record.is_present:
        yield from _check_last(evidence, name, record, rows, taken)
    path = _result(evidence.shared, name, ".done")
    torn = check_slot_now(evidence.shared, name)
    if torn is not None:
        yield torn
    elif not rows:
        if path.exists():
            yield Finding(Kind.FOREIGN, name, "there is a marker and no job")
    elif not path.exists():
        yield Finding(Kind.LOST, name, "there is no marker")
    else:
        yield from _check_marker(evidence, name, record, rows[-1], path)


def _check_last(
    evidence: Evidence, name: str, record: SlotRecord, rows: list[Row], taken: dict[str, bytes]
) -> Iterator[Finding]:
    """Yield faults if the present version is not the one that ran last."""
    was_moved = _was_moved(evidence, name)
    if not was_moved and not _is_taken(evidence.shared / name, taken):
        yield Finding(Kind.LOST, name, "the version that lies there was never taken")
    if not rows or rows[-1].sha256 != record.versions[-1].sha256:
        yield Finding(Kind.LOST, name, "the last drop has no job")
    elif not was_moved and not _ran_its_module(record, rows[-1]):
        yield Finding(Kind.LOST, name, "the last drop of its module did not run it")


def _check_marker(
    evidence: Evidence, name: str, record: SlotRecord, last: Row, path: Path
) -> Iterator[Finding]:
    marker = json.loads(path.read_bytes())
    named = {*marker["files"], path.name}
    for file in path.parent.glob(f"{path.stem}.*"):
        if ".aside-" in file.name:
            continue
        inner = (one for one in file.rglob("*") if not one.is_dir())
        for one in inner if file.suffix == ".output" else [file]:
            if (its_name := str(one.relative_to(path.parent))) not in named:
                yield Finding(Kind.FOREIGN, name, f"{its_name} is of another job")
    if marker["job"] != last.id:
        yield Finding(Kind.FOREIGN, name, f"the marker is of job {marker['job']}, not {last.id}")
        return
    if marker["code"] == last.code and last.code in evidence.producer.decided_codes:
        return
    version = next((one for one in record.versions if one.sha256 == last.sha256), None)
    if version is not None:
        yield from _check_values(evidence, name, version, marker, path.with_suffix(".json"))


def _check_values(
    evidence: Evidence, name: str, version: Version, marker: dict[str, Any], path: Path
) -> Iterator[Finding]:
    if marker["input"]["sha256"] != version.sha256 or marker["code"] != version.code:
        yield Finding(Kind.WRONG, name, f"{marker['code']} of {marker['input']['sha256']}")
    elif version.code == "ok":
        wanted = _result_of(version, evidence.producer.addends.get(marker["module"]["sha256"]))
        found = json.loads(path.read_bytes())
        if found["args"][0] != version.number or found["results"] != wanted:
            yield Finding(Kind.WRONG, name, f"{found} instead of {wanted}")
        files = {file: entry["sha256"] for file, entry in marker["files"].items()}
        for file, sha256 in version.output:
            if files.get(f"{path.stem}.output/{file}") != sha256:
                yield Finding(Kind.WRONG, name, f"{file} is missing or is another one")
    most = evidence.most_attempts
    if most is not None and version.code != "crashed" and marker["attempt"] > most:
        yield Finding(Kind.WRONG, name, f"{marker['attempt']} attempts were counted")


def _result_of(version: Version, addend: int | None) -> list[int]:
    return [] if addend is None else [version.number * 2 + addend]


def _check_lines(evidence: Evidence, rows: list[Row]) -> Iterator[Finding]:
    number_of = {
        version.sha256: version.number
        for record in evidence.producer.slots.values()
        for version in record.versions
    }
    decided = evidence.producer.decided_codes
    jobs = Counter(
        row.code if row.code in decided else number_of.get(row.sha256 or "")
        for row in rows
        if row.state == "delivered"
    )
    # The line of an invalid input has no number; these lines are counted together. So are those of
    # each code of jobs that were not run, because a large input is not parsed for them.
    unreadable = {
        version.number
        for record in evidence.producer.slots.values()
        for version in record.versions
        if version.code == "invalid-input"
    }
    owed = Counter[int | str | None]()
    for number, count in jobs.items():
        owed[None if number in unreadable else number] += count
    printed = Counter[int | str | None]()
    for line in evidence.lines:
        try:
            content = json.loads(line)
            args = content["args"]
            code = content.get("error", {}).get("code")
        except (ValueError, LookupError, TypeError):
            yield Finding(Kind.TORN, "standard output", f"is no result line: {line[:80]!r}")
            continue
        number = args[0] if args else None
        printed[code if code in decided else number] += 1
    for number in owed.keys() | printed.keys():
        where = f"result line of version {number}"
        more = printed[number] - owed[number]
        if owed[number] == 0:
            yield Finding(Kind.FOREIGN, where, "was printed and no job of it is in the journal")
        elif more > 0:
            yield Finding(Kind.DOUBLED, where, f"was printed {printed[number]} times")
        elif more < 0 and not evidence.kills + evidence.deaths:
            yield Finding(Kind.LOST, where, f"was printed {printed[number]} times")


def _check_leftovers(evidence: Evidence) -> Iterator[Finding]:
    for root in (evidence.shared, evidence.wasm, evidence.state):
        for path in root.rglob("*"):
            is_compilers = path.name.startswith(".") and path.is_relative_to(evidence.state)
            # The directories of one module are in one that stays.
            is_of_a_job = path.parent.parent == evidence.state / "jobs"
            is_request = path.parent == evidence.state / "cancel"
            if path.name.startswith(_TEMPORARY) or is_compilers or is_of_a_job or is_request:
                yield Finding(Kind.LEFTOVER, str(path.relative_to(root)), "was left behind")


def _result(shared: Path, name: str, suffix: str) -> Path:
    path = shared / name
    return path.with_name(path.stem.replace("input", "result", 1) + suffix)
