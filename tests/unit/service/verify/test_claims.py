"""The claim of a marker against that of the receipt beside it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from tests.support.claims import ENGINE, PROFILE, a_claim, a_rerun, content_of
from tests.support.deliveries import deliver
from wasmdrop.client import submit
from wasmdrop.proof.claim import Claim, Content
from wasmdrop.proof.keys import KeyKind, PrivateKey
from wasmdrop.proof.statement import ClaimedLimits
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.marker import MarkedOutput
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.service.verify.claims import compare_claims, read_claim
from wasmdrop.service.verify.documents import MAX_DOCUMENT_BYTES, open_document
from wasmdrop.service.verify.verdict import ConcludedError, Verdict


def a_receipt(claim: Claim, **changes: Any) -> Claim:
    """Return what the receipt of the same job claims, with other fields changed."""
    receipt = {"id": msgspec.UNSET, "output_files": None, "receipt": None}
    return msgspec.structs.replace(claim, **(receipt | changes))


def test_receipt_of_the_same_job_does_not_differ_from_the_marker() -> None:
    """Nor if one of them has no call, because it is too large."""
    claim = a_claim()
    assert compare_claims(claim, a_receipt(claim)) == []
    assert compare_claims(claim, a_receipt(claim, entry=UNSET, args=UNSET)) == []
    unknown = a_claim(args=UNSET, exit_code=UNSET, output=UNSET)
    assert compare_claims(unknown, a_receipt(claim)) == []


def test_receipt_without_the_message_of_a_code_that_depends_on_the_machine_does_not_differ() -> (
    None
):
    """Receipts leave it out."""
    claim = a_claim(a_rerun(Outcome(code=Code.TIMEOUT, message="ran longer than 20 s")))
    assert compare_claims(claim, a_receipt(claim, message="")) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"module": Content("c" * 64)}, "module"),
        ({"module": None}, "module"),
        ({"input": Content("c" * 64)}, "input"),
        ({"entry": "fab"}, "entry"),
        ({"args": (12.0,)}, "args"),
        ({"code": Code.EXIT}, "code"),
        ({"message": "words"}, "message"),
        ({"exit_code": 1}, "exit code"),
        ({"entry": UNSET, "args": UNSET, "exit_code": 1}, "exit code"),
        ({"fuel_used": 1}, "fuel"),
        ({"limits": ClaimedLimits.of(Limits(memory_mb=1))}, "limits"),
        ({"profile": msgspec.structs.replace(PROFILE, number=2)}, "profile"),
        ({"engine": msgspec.structs.replace(ENGINE, wasmtime="1")}, "engine"),
        ({"output": MarkedOutput("other")}, "result.output"),
        ({"files": {**a_claim().files, ".txt": content_of(b"")}}, "result.txt"),
        ({"files": {**a_claim().files, ".more": content_of(b"")}}, "result.more"),
    ],
)
def test_receipt_of_another_job_differs_from_the_marker(changes: dict[str, Any], what: str) -> None:
    """In each field alone."""
    claim = a_claim()
    found = compare_claims(claim, a_receipt(claim, **changes))
    assert [each.what for each in found] == [f"receipt: {what}"]


def test_call_that_is_too_large_for_the_marker_is_that_of_its_receipt(tmp_path: Path) -> None:
    """So that a rerun compares it; without a receipt it is unknown."""
    submission = submit(tmp_path, {"entry": "fib"}, "input.json")
    large = Outcome(code=Code.OK, results=("x" * MAX_DOCUMENT_BYTES,), exit_code=3)
    for signer, args, exit_code in (
        (None, UNSET, UNSET),
        (PrivateKey.generate(KeyKind.ED25519), (12,), 3),
    ):
        deliver(submission, large, signer=signer)
        with open_document(str(tmp_path)) as (directory, document):
            claim = read_claim(directory, document, 1 << 30).claim
        assert (claim.args, claim.exit_code) == (args, exit_code)


def test_result_file_that_changes_after_it_was_checked_is_a_mismatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of a slot may write to it at any moment."""
    deliver(submit(tmp_path, {"entry": "fib"}, "input.json"))
    (tmp_path / "result.json").write_text('{"entry":"fib","args":[13],"results":[144]}')
    monkeypatch.setattr("wasmdrop.service.verify.claims.check_slot_files", lambda *_: [])
    with (
        open_document(str(tmp_path)) as (directory, document),
        pytest.raises(ConcludedError, match="changed while they were read") as caught,
    ):
        read_claim(directory, document, 1 << 30)
    assert caught.value.verdict is Verdict.MISMATCH
