"""The controls of a daemon in a storm, all at once.

They are cancellation, retention, the hook, limits, reloads and the page.

A receiver takes the events of finished jobs and refuses some at first. Jobs are cancelled by cancel
files, by ``wasmdrop cancel`` and by a client of the page. :func:`check_controls` completes the
verdict: each finished job was told to the receiver with the bytes of its marker, a job whose
cancellation was confirmed did not end otherwise, and an input that the daemon moved is the one that
its job ran.
"""

import contextlib
import hashlib
import http.client
import json
import random
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from tests.support.commands import command
from tests.support.daemon import DeadlineError
from tests.support.durability.checker import (
    Evidence,
    Finding,
    Kind,
    Row,
    rows_of,
    without_superfluous,
)
from tests.support.durability.lives import Lives
from tests.support.durability.reloads import Reloads
from tests.support.page import CHANGE, ask, overview
from tests.support.receiver import TAKEN, Answer, Received, Receiver

_JOB_ID_LENGTH: Final = len("20260101T000000Z-0123456789")
_AWAY: Final = (OSError, http.client.HTTPException, ValueError, AssertionError, DeadlineError)


class Controls:
    """Switches the controls of a daemon on and uses them."""

    def __init__(self, lives: Lives, dice: random.Random) -> None:
        self._lives = lives
        self._dice = dice
        self._client_dice = random.Random(dice.random())  # noqa: S311 - a test's dice
        self._answer_dice = random.Random(dice.random())  # noqa: S311 - a test's dice
        self._commands: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._ended = threading.Event()
        self._receiver = Receiver(answer=self._answer)
        self._is_archiving = dice.random() < 0.5
        lives.producer.loses_inputs = True
        lives.producer.decided_codes.add("queue-limit")
        lives.environment |= {
            "WASMDROP_AFTER": "archive" if self._is_archiving else "remove",
            "WASMDROP_KEEP_RESULTS_DAYS": "1000",
            "WASMDROP_PAGE": "on",
            "WASMDROP_HTTP": "127.0.0.1:0",
        }
        self.reloads = Reloads(lives, dice)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the receiver and the client of the page for a block."""
        client = threading.Thread(target=self._use_page, name="page client")
        with self._receiver.running() as receiver:
            self._lives.environment["WASMDROP_ON_FINISHED"] = receiver.url
            client.start()
            try:
                yield
            finally:
                self._ended.set()
                client.join()
                for _job, process in self._commands:
                    process.kill()
                    process.wait()

    def cancel(self, names: list[str]) -> None:
        """Cancel the jobs of one of these inputs, or any one job."""
        producer = self._lives.producer
        if self._dice.random() < 0.7:
            producer.cancel(self._dice.choice(names))
            return
        open_jobs = [row.id for row in rows_of(self._lives.state) if row.code is None]
        if open_jobs:
            job = self._dice.choice(open_jobs)
            producer.requested.add(job)
            words = command("cancel", job)
            process = subprocess.Popen(
                words,
                # The file of the daemon may be a wrong one at this moment.
                env=self._lives.environment | {"WASMDROP_CONFIG": "none"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            self._commands.append((job, process))

    def verdict(self) -> list[Finding]:
        """Wait until the daemon is at rest, stop it, and return all faults."""
        for job, process in self._commands:
            _out, said = process.communicate(timeout=120)
            # A dead daemon may have published results that the journal does not have yet.
            if process.returncode == 0 and b"no daemon is running" not in said:
                self._lives.producer.cancelled.add(job)
        self._ended.set()
        found = self._lives.verdict()
        evidence, requests = self._lives.evidence(), self._receiver.requests
        found += check_controls(evidence, requests, self._is_archiving)
        return found + list(self.reloads.check(request.body for request in requests))

    def _answer(self, _request: Received) -> Answer:
        return (503, {"Retry-After": "1"}) if self._answer_dice.random() < 0.05 else TAKEN

    def _use_page(self) -> None:
        while not self._ended.wait(0.2):
            with contextlib.suppress(*_AWAY):
                seen = overview(self._lives)
                jobs = [job["job"] for job in (*seen["running"], *seen["queued"])]
                if jobs and self._client_dice.random() < 0.5:
                    self._cancel_on_page(self._client_dice.choice(jobs))

    def _cancel_on_page(self, job: str) -> None:
        producer = self._lives.producer
        producer.requested.add(job)
        answer = ask(self._lives, f"/api/v1/jobs/{job}/cancel", "POST", CHANGE)
        if answer.status == 200 and answer.json == {"cancelled": True}:
            producer.cancelled.add(job)


def check_controls(
    evidence: Evidence, requests: list[Received], is_archiving: bool
) -> Iterator[Finding]:
    """Return the faults of controls. Call it when the daemon is at rest."""
    rows = {row.id: row for row in without_superfluous(rows_of(evidence.state), evidence.producer)}
    for job in sorted(evidence.producer.cancelled & rows.keys()):
        if rows[job].code != "cancelled":
            yield Finding(Kind.WRONG, job, f"was cancelled durably and ended as {rows[job].code}")
    yield from _check_hook(evidence, rows, requests)
    yield from _check_archives(evidence, rows, is_archiving)


def _check_hook(
    evidence: Evidence, rows: dict[str, Row], requests: list[Received]
) -> Iterator[Finding]:
    bodies = defaultdict[str, set[bytes]](set)
    for request in requests:
        bodies[request.job_id].add(request.body)
    for job in sorted(bodies.keys() - rows.keys()):
        yield Finding(Kind.FOREIGN, job, "the hook got an event of no job")
    for row in rows.values():
        if row.state == "delivered" and not bodies[row.id]:
            yield Finding(Kind.LOST, row.slot, f"the hook got no event of job {row.id}")
        told = [(one["job"], one["code"]) for one in map(json.loads, bodies[row.id])]
        if bodies[row.id] and told != [(row.id, row.code)]:
            wanted = f"the event of job {row.id} is not its marker: {row.code}"
            yield Finding(Kind.WRONG, row.slot, f"{wanted}: {sorted(bodies[row.id])}")
    for path in evidence.shared.rglob("result*.done"):
        published = path.read_bytes()
        if published not in bodies[json.loads(published)["job"]]:
            yield Finding(Kind.WRONG, str(path), "its event differs from the marker")


def _check_archives(
    evidence: Evidence, rows: dict[str, Row], is_archiving: bool
) -> Iterator[Finding]:
    archived = set[str]()
    for kind in ("done", "failed"):
        for path in evidence.shared.rglob(f"{kind}/*"):
            row = rows.get(path.name[:_JOB_ID_LENGTH])
            name = path.parent.parent / path.name[_JOB_ID_LENGTH + 1 :]
            if row is None or row.slot != str(name.relative_to(evidence.shared)):
                yield Finding(Kind.FOREIGN, str(path), "is of no job of that slot")
                continue
            archived.add(row.id)
            if hashlib.sha256(path.read_bytes()).hexdigest() != row.sha256:
                yield Finding(Kind.LOST, row.slot, f"{path.name} is not the input of its job")
            if row.state != "delivered" or (kind == "done") is not (row.code == "ok"):
                yield Finding(Kind.WRONG, row.slot, f"{kind}/{path.name}: ended as {row.code}")
    last = {row.slot: row for row in rows.values()}
    for slot, record in evidence.producer.slots.items():
        if record.is_present and not (evidence.shared / slot).exists() and slot in last:
            row = last[slot]
            if (is_archiving or row.code != "ok") and row.id not in archived:
                yield Finding(Kind.LOST, slot, f"the input of job {row.id} was not archived")
