"""The claim of a marker against that of the receipt beside it."""

from typing import Any

import msgspec
import pytest

from tests.support.claims import ENGINE, PROFILE, a_claim, a_rerun, content_of
from wasmdrop.proof.claim import Claim, Content
from wasmdrop.proof.statement import CalledFunction, ClaimedLimits
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.service.verify.claims import compare_claims


def a_receipt(claim: Claim, **changes: Any) -> Claim:
    """Return what the receipt of the same job claims, with other fields changed."""
    receipt = {"id": msgspec.UNSET, "output_files": None, "receipt": None}
    return msgspec.structs.replace(claim, **(receipt | changes))


def test_receipt_of_the_same_job_does_not_differ_from_the_marker() -> None:
    """Nor if one of them has no call, because it is too large."""
    claim = a_claim()
    assert compare_claims(claim, a_receipt(claim)) == []
    assert compare_claims(claim, a_receipt(claim, call=None)) == []
    unknown = a_claim(call=None, exit_code=msgspec.UNSET)
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
        ({"call": CalledFunction(entry="fab", args=(12,))}, "entry"),
        ({"call": CalledFunction(entry="fib", args=(12.0,))}, "args"),
        ({"code": Code.EXIT}, "code"),
        ({"message": "words"}, "message"),
        ({"exit_code": 1}, "exit code"),
        ({"call": None, "exit_code": 1}, "exit code"),
        ({"fuel_used": 1}, "fuel"),
        ({"limits": ClaimedLimits.of(Limits(memory_mb=1))}, "limits"),
        ({"profile": msgspec.structs.replace(PROFILE, number=2)}, "profile"),
        ({"engine": msgspec.structs.replace(ENGINE, wasmtime="1")}, "engine"),
        ({"output_cid": "other"}, "result.output"),
        ({"files": {**a_claim().files, ".txt": content_of(b"")}}, "result.txt"),
        ({"files": {**a_claim().files, ".more": content_of(b"")}}, "result.more"),
    ],
)
def test_receipt_of_another_job_differs_from_the_marker(changes: dict[str, Any], what: str) -> None:
    """In each field alone."""
    claim = a_claim()
    found = compare_claims(claim, a_receipt(claim, **changes))
    assert [each.what for each in found] == [f"receipt: {what}"]
