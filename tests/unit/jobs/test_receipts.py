"""Receipts of jobs: which jobs have one, and that its bytes follow from the job alone."""

import hashlib
import json
import subprocess
import sys
from typing import Any, Final

import pytest

from tests.support.receipts import statement_in
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs.job import Job
from wasmdrop.jobs.result_files import package
from wasmdrop.proof.envelope import parse_envelope, signed_by
from wasmdrop.proof.keys import KeyKind, PrivateKey
from wasmdrop.proof.statement import parse_statement
from wasmdrop.protocol.limits import MEBIBYTE, Limits
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.slot import InputFile, PinnedModule, Slot

OK: Final = Outcome(code=Code.OK, results=(2**64 - 1,), fuel_used=212)
KEY: Final = PrivateKey.generate(KeyKind.ED25519)
INPUT: Final = InputFile("/shared/input.json", "a" * 64, 2)
MODULE: Final = PinnedModule("/wasm/fib.wasm", "b" * 64, 100)


def a_job(number: int = 1, **changes: Any) -> Job:
    """Return a finished job; all that must not be in a receipt depends on ``number``."""
    stem = f"result-{number}"
    slot = Slot(f"s{number}/input-{number}.json", f"/{number}/input-{number}.json", "/", stem)
    fields: dict[str, Any] = {
        "id": f"job-{number}",
        "slot": slot,
        "attempt": number,
        "producer_id": f"id-{number}",
        "dropped_at_ns": number * 10**9,
        "started_at_ns": number * 10**9 + 1,
        "finished_at_ns": number * 10**9 + 2,
        "input": INPUT,
        "module": MODULE,
    }
    return Job(**(fields | changes))


def packed(
    job: Job,
    outcome: Outcome = OK,
    *,
    entry: str | None = "fib",
    limits: Limits = Limits(),  # noqa: B008 - a frozen value
    is_deterministic: bool = True,
    key: PrivateKey | None = KEY,
) -> ResultPackage:
    """Return the results of a job called with one argument."""
    return package(job, entry, [12], outcome, limits, is_deterministic=is_deterministic, signer=key)


def test_receipt_states_the_digests_of_all_other_result_files() -> None:
    """The marker has its digest, too."""
    outcome = Outcome(code=Code.EXIT, exit_code=1, is_command=True, stdout=b"out", stderr=b"")
    results = packed(a_job(), outcome)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in results.files.items()}
    marked = json.loads(results.marker)["files"]
    assert {f"result-1{name}": digest for name, digest in digests.items()} == {
        name: file["sha256"] for name, file in marked.items()
    }
    receipt = results.files[".receipt"]
    stated = {each["name"]: each["digest"]["sha256"] for each in statement_in(receipt)["subject"]}
    del digests[".receipt"]
    assert stated == {f"result{name}": digest for name, digest in digests.items()}
    envelope = parse_envelope(receipt)
    assert signed_by(envelope, [KEY.public]) == (KEY.public,)


def test_receipt_states_the_call_and_what_it_depends_on() -> None:
    """Limits but the timeout, versions, and module and input by their digests."""
    limits = Limits(timeout_sec=3, memory_mb=7, output_mb=0.5, disk_mb=9, fuel=2**64 - 1)
    statement = parse_statement(
        parse_envelope(packed(a_job(), limits=limits).files[".receipt"]).payload
    )
    predicate = statement.predicate
    assert predicate.module is not None
    assert (predicate.module.digest.sha256, predicate.input.digest.sha256) == ("b" * 64, "a" * 64)
    assert predicate.call is not None
    assert (predicate.call.entry, predicate.call.args) == ("fib", (12,))
    claimed = predicate.limits
    assert (claimed.memory_mb, claimed.output_mb, claimed.disk_mb) == (7, 0.5, 9)
    assert claimed.fuel == 2**64 - 1
    assert predicate.outcome.fuel_used == 212


def test_receipts_of_the_same_run_in_other_slots_are_equal() -> None:
    """Other times, paths, attempts, ids, hosts and timeouts; another machine's run time."""
    slower = Outcome(
        code=Code.OK, results=OK.results, fuel_used=212, run_seconds=9.0, compile_seconds=3.0
    )
    elsewhere = InputFile("/elsewhere/input-2.json", INPUT.sha256, INPUT.size_bytes)
    moved = PinnedModule("/elsewhere/other-name.wasm", MODULE.sha256, MODULE.size_bytes)
    first = packed(a_job(1))
    second = packed(a_job(2, input=elsewhere, module=moved), slower, limits=Limits(timeout_sec=99))
    assert first.marker != second.marker
    assert first.files == second.files


@pytest.mark.parametrize("kind", KeyKind)
def test_receipt_of_a_repeated_job_has_the_same_bytes(kind: KeyKind) -> None:
    """As after a crash between a run and its delivery: nonces are not random."""
    key = PrivateKey.generate(kind)
    receipts = {packed(a_job(attempt), key=key).files[".receipt"] for attempt in range(1, 6)}
    assert len(receipts) == 1


def test_receipt_needs_a_key_and_a_deterministic_job() -> None:
    """Without either, all files are as they always were."""
    without = packed(a_job(), key=None)
    assert ".receipt" not in without.files
    other = packed(a_job(), is_deterministic=False)
    assert ".receipt" not in other.files
    signed = packed(a_job()).files
    assert {name: data for name, data in signed.items() if name != ".receipt"} == without.files


@pytest.mark.parametrize("code", Code)
def test_receipt_is_written_for_each_code(code: Code) -> None:
    """Also for those that no other machine has to confirm, and before anything was called."""
    outcome = Outcome(code=code, message="why")
    results = packed(a_job(module=None), outcome, entry=None)
    predicate = parse_statement(parse_envelope(results.files[".receipt"]).payload).predicate
    assert predicate.module is None
    assert predicate.call is not None
    assert predicate.call.entry is None
    assert predicate.outcome.code is code


def test_receipt_hashes_no_result_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marker and receipt share one pass over 8 MiB of output."""
    hashed: list[int] = []
    sha256 = hashlib.sha256

    def counting(data: bytes = b"", **options: Any) -> Any:
        hashed.append(len(data))
        return sha256(data, **options)

    monkeypatch.setattr(hashlib, "sha256", counting)
    output = bytes(8 * MEBIBYTE)
    outcome = Outcome(code=Code.EXIT, exit_code=0, is_command=True, stdout=output, stderr=b"")
    packed(a_job(), outcome, key=None)
    before = sum(hashed)
    hashed.clear()
    results = packed(a_job(), outcome)
    assert sum(hashed) == before + len(results.files[".receipt"])


def test_results_without_a_key_import_no_cryptography() -> None:
    """It takes 13 MiB and 0.2 s, and most daemons have no key."""
    program = """\
import sys
import wasmdrop.cli.serve, wasmdrop.cli.run, wasmdrop.jobs.receipts, wasmdrop.proof.statement
print([name for name in sys.modules if name.partition('.')[0] == 'cryptography'])
print('wasmdrop.proof.envelope' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout == b"[]\nTrue\n"
