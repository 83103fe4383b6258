"""What markers and receipts claim, and what no claim may say."""

import json
from typing import Any

import msgspec
import pytest

from tests.support.markers import a_marker
from tests.support.receipts import CID as CID_TEXT
from tests.support.receipts import DIRECTORY_CID, a_payload, resource
from wasmdrop.proof.claim import Claim, claim_of_marker, claim_of_statement
from wasmdrop.proof.statement import parse_statement
from wasmdrop.protocol.errors import MalformedError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.marker import MarkedOutput, Marker
from wasmdrop.protocol.outcome import Code, Outcome

FILE = {"sha256": "a" * 64, "bytes": 3}
FILES = {"result.json": FILE, "result.txt": FILE}
CALLED = {"entry": "fib", "args": [2**64, 1.5], "exit_code": 3}


def of_marker(called: Any = None, stem: str = "result", **changes: Any) -> Claim:
    """Return the claim of a marker with other keys."""
    marker = msgspec.convert(a_marker(FILES) | changes, Marker)
    return claim_of_marker(marker, stem, called)


def of_receipt(**changes: Any) -> Claim:
    """Return the claim of a receipt with other parts."""
    return claim_of_statement(parse_statement(a_payload(**changes)))


def test_claim_of_a_marker_has_the_call_of_result_json() -> None:
    """Whose integers are exact."""
    claim = of_marker(CALLED)
    assert (claim.entry, claim.args) == ("fib", (2**64, 1.5))
    assert claim.exit_code == 3


@pytest.mark.parametrize(
    "called",
    [None, {}, CALLED | {"args": 1}, CALLED | {"exit_code": True}, CALLED | {"exit_code": "3"}],
)
def test_claim_of_a_marker_with_another_result_json_has_no_call(called: Any) -> None:
    """No daemon wrote it, and a rerun finds that it differs."""
    claim = of_marker(called)
    assert (claim.entry, claim.args, claim.exit_code) == ("fib", msgspec.UNSET, msgspec.UNSET)


def test_claim_of_a_marker_of_an_earlier_version_does_not_say_whether_it_has_a_directory() -> None:
    """Nor does one that lists output files and no directory."""
    new = {"seed": 0, "clock": "", "profile": 1}
    output = {"cid": CID_TEXT}
    for changes, expected in (
        ({"deterministic": new}, None),
        ({"deterministic": new, "output": output}, MarkedOutput(CID_TEXT)),
        ({"deterministic": new, "output": {"cid": None}}, MarkedOutput(None)),
        ({"deterministic": {"seed": 0, "clock": ""}}, msgspec.UNSET),
        ({"deterministic": new, "files": FILES | {"result.output/a": FILE}}, msgspec.UNSET),
    ):
        assert of_marker(**changes).output == expected


def test_claim_of_a_marker_names_files_by_suffix_whatever_the_slot_is_called() -> None:
    """The receipt apart, and the output files by their path in the directory."""
    names = (".json", ".txt", ".stdout", ".receipt", ".output/a", ".output/sub/b.json")
    claim = of_marker(files={f"result-x{name}": FILE for name in names}, stem="result-x")
    assert sorted(claim.files) == [".json", ".stdout", ".txt"]
    assert claim.receipt is not None
    assert claim.output_files is not None
    assert sorted(claim.output_files) == ["a", "sub/b.json"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../result.stdout",
        "result-x.json",
        "result.done",
        "result.output",
        "result.output/",
        "result.output/../../x",
        "result.output/./x",
        "result.output//x",
        "result.output/x\0",
        "result.output" + "/x" * 40,
        "results.stdout",
    ],
)
def test_claim_of_a_marker_that_names_another_file_is_refused(name: str) -> None:
    """Nothing outside the slot is looked at."""
    with pytest.raises(MalformedError, match="is no result file"):
        of_marker(files=FILES | {name: FILE})


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"result.json": FILE}},
        {"files": FILES | {"result.stdout": FILE | {"bytes": 2**53 + 1}}},
        {"limits": {"memory_mb": 0}},
        {"limits": {"memory_mb": 10**300}},
        {"limits": {"disk_mb": -1}},
        {"limits": {"output_mb": 0.0}},
        {"limits": {"output_mb": 1e300}},
        {"limits": {"fuel": 0}},
        {"limits": {"fuel": 2**64}},
        {"fuel_used": 2**64},
    ],
)
def test_claim_of_a_marker_with_impossible_numbers_is_refused(changes: dict[str, Any]) -> None:
    """Before anything is done with them."""
    with pytest.raises(MalformedError):
        of_marker(**changes)


def test_claim_of_a_receipt_has_the_same_fields() -> None:
    """Its subjects are the result files."""
    claim = of_receipt(
        output_cid=DIRECTORY_CID,
        limits=Limits(1.0, 2, 3.5, 4, 5),
        outcome=Outcome(code=Code.EXIT, message="words", exit_code=3, fuel_used=2**64 - 1),
        args=(2**64, 1.5),
    )
    assert (claim.entry, claim.args) == ("fib", (2**64, 1.5))
    assert (claim.code, claim.message, claim.exit_code) == (Code.EXIT, "words", 3)
    assert claim.fuel_used == 2**64 - 1
    limits = claim.limits
    assert (limits.memory_mb, limits.output_mb, limits.disk_mb, limits.fuel) == (2, 3.5, 4, 5)
    assert (sorted(claim.files), claim.output_files) == ([".json", ".txt"], None)
    assert claim.output == MarkedOutput(DIRECTORY_CID)
    assert claim.id is msgspec.UNSET
    assert (claim.module and claim.module.sha256, claim.module and claim.module.cid) == (
        "3" * 64,
        (resource().uri or "").removeprefix("ipfs://"),
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"memoryMb":256', b'"memoryMb":%d' % 10**300),
        (b'"outputMb":8.0', b'"outputMb":1e300'),
        (b'"fuel":null', b'"fuel":0'),
        (b'"fuelUsed":212', b'"fuelUsed":%d' % 2**64),
        (b'"input":{', b'"input":{"digest":{"cid":"abcdefgh"}},"other":{'),
    ],
)
def test_claim_of_a_receipt_with_impossible_values_is_refused(old: bytes, new: bytes) -> None:
    """As of a marker."""
    payload = a_payload()
    assert old in payload
    with pytest.raises(MalformedError):
        claim_of_statement(parse_statement(payload.replace(old, new)))


@pytest.mark.parametrize("place", ["module", "input", "result.json", "result.output"])
def test_claim_of_a_receipt_with_a_second_digest_is_refused(place: str) -> None:
    """Readers of in-toto statements match a file by any digest of its set."""
    statement = json.loads(a_payload(output_cid=DIRECTORY_CID))
    subjects = {each["name"]: each for each in statement["subject"]}
    digests = (statement["predicate"] | subjects)[place]["digest"]
    digests.update({"sha256": "a" * 64, "cid": DIRECTORY_CID} | digests)
    with pytest.raises(MalformedError, match="digest"):
        claim_of_statement(parse_statement(json.dumps(statement).encode()))


def test_claim_of_a_receipt_whose_directory_has_two_content_ids_is_refused() -> None:
    """The uri is what a reader would follow."""
    statement = json.loads(a_payload(output_cid=DIRECTORY_CID))
    (subject,) = [each for each in statement["subject"] if each["name"] == "result.output"]
    subject["uri"] = resource().uri
    with pytest.raises(MalformedError, match="uri"):
        claim_of_statement(parse_statement(json.dumps(statement).encode()))
