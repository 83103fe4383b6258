"""A claim against a rerun: what is a match, what a mismatch, and what says nothing."""

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from tests.support.claims import ENGINE, OK, a_claim, a_rerun, a_tree, content_of
from wasmdrop.proof.claim import Claim, Content
from wasmdrop.proof.statement import (
    Engine,
    Resource,
    encode_statement,
    statement_of,
)
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.marker import MarkedOutput
from wasmdrop.protocol.outcome import REPRODUCIBLE_CODES, Code, Outcome
from wasmdrop.service.verify.comparison import require_match, require_same_statement
from wasmdrop.service.verify.rerun import Rerun
from wasmdrop.service.verify.verdict import ConcludedError, Verdict

TREE = a_tree({"a.txt": b"a", "sub/b.txt": b"b"}, "empty", "sub")
WITH_OUTPUT = msgspec.structs.replace(OK, output=TREE)


def conclusion(claim: Claim, rerun: Rerun, own: Engine = ENGINE) -> ConcludedError:
    """Return how a comparison that is no match ends."""
    with pytest.raises(ConcludedError) as caught:
        require_match(claim, rerun, own, {})
    return caught.value


def test_comparison_of_a_true_claim_is_a_match() -> None:
    """With nothing left out."""
    assert require_match(a_claim(), a_rerun(), ENGINE, {}) == ()
    rerun = a_rerun(WITH_OUTPUT)
    assert require_match(a_claim(rerun), rerun, ENGINE, {}) == ()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"code": Code.EXIT}, "code"),
        ({"message": "other"}, "message"),
        ({"fuel_used": 213}, "fuel"),
        ({"fuel_used": None}, "fuel"),
        ({"exit_code": 1}, "exit code"),
        ({"entry": "fab"}, "entry"),
        ({"args": (12.0,)}, "args"),
        ({"args": (True,)}, "args"),
        ({"output": MarkedOutput(TREE.cid)}, "result.output cid"),
        ({"output": MarkedOutput(None)}, "result.output cid"),
        ({"output_files": {"a": Content("c" * 64, 1)}}, "result.output/a"),
    ],
)
def test_comparison_names_each_field_that_is_not_true(changes: dict[str, Any], what: str) -> None:
    """Each alone is a mismatch."""
    end = conclusion(a_claim(**changes), a_rerun())
    assert (end.verdict, [found.what for found in end.differences]) == (Verdict.MISMATCH, [what])


def test_comparison_of_a_receipt_without_its_call_compares_the_exit_code() -> None:
    """Only the ``result.json`` of a marker may lack it."""
    end = conclusion(a_claim(entry=UNSET, args=UNSET, exit_code=1), a_rerun())
    assert [found.what for found in end.differences] == ["exit code"]
    without = a_claim(args=UNSET, exit_code=UNSET)
    assert require_match(without, a_rerun(), ENGINE, {}) == ()
    assert conclusion(msgspec.structs.replace(without, entry="fab"), a_rerun()).differences


def statement_bytes(claim: Claim, rerun: Rerun) -> bytes:
    """Return the payload of the receipt that the executor of this job signs."""
    assert claim.module is not None
    assert claim.input is not None
    cid = None if rerun.outcome.output is None else rerun.outcome.output.cid
    statement = statement_of(
        {name: Resource.of(file.sha256, file.cid) for name, file in claim.files.items()},
        cid,
        Resource.of(claim.module.sha256, claim.module.cid),
        Resource.of(claim.input.sha256, claim.input.cid),
        rerun.entry,
        rerun.args,
        Limits(),
        ENGINE,
        rerun.outcome,
    )
    return encode_statement(statement)


def test_comparison_with_the_payload_of_a_receipt_is_byte_for_byte() -> None:
    """Of the same versions; nothing in it may be untrue, wherever it stands."""
    rerun = a_rerun(WITH_OUTPUT)
    claim = a_claim(rerun)
    payload = statement_bytes(claim, rerun)
    require_same_statement(claim, rerun, ENGINE, payload)
    for old, new in (
        (b'"call":{"entry":"fib","args":[12]}', b'"call":null'),
        (b'"exitCode":0', b'"exitCode":1'),
        (b'"fuelUsed":212', b'"fuelUsed":212 '),
        (b'"sha256":"' + b"a" * 64 + b'"', b'"cid":"abcdefgh"'),
    ):
        assert old in payload
        other = payload.replace(old, new)
        with pytest.raises(ConcludedError) as caught:
            require_same_statement(claim, rerun, ENGINE, other)
        assert caught.value.verdict is Verdict.MISMATCH
        own = Engine(wasmdrop="2.0", wasmtime=ENGINE.wasmtime)
        require_same_statement(claim, rerun, own, other)  # whose statements may be others


@pytest.mark.parametrize("suffix", sorted(a_rerun().files))
def test_comparison_names_each_result_file_that_is_not_true(suffix: str) -> None:
    """Changed, missing in the claim, or with the content id of another file."""
    files = a_claim().files
    changed = files | {suffix: content_of(b"other")}
    missing = {name: file for name, file in files.items() if name != suffix}
    other_cid = msgspec.structs.replace(files[suffix], cid=content_of(b"other").cid)
    for lie, what in (
        (changed, f"result{suffix}"),
        (missing, f"result{suffix}"),
        (files | {suffix: other_cid}, f"result{suffix} cid"),
    ):
        end = conclusion(a_claim(files=lie), a_rerun())
        assert end.verdict is Verdict.MISMATCH
        assert [found.what for found in end.differences] == [what]


def test_comparison_names_a_file_that_the_rerun_does_not_have() -> None:
    """A claim of output that the program never wrote."""
    quiet = a_rerun(msgspec.structs.replace(OK, stdout=None, stderr=None, exit_code=None))
    files = a_claim(quiet).files | {".stdout": content_of(b"x")}
    end = conclusion(a_claim(quiet, files=files), quiet)
    assert [found.what for found in end.differences] == ["result.stdout"]


def test_comparison_shows_both_texts_around_the_first_difference() -> None:
    """If the claimed file is at hand; escaped, because strangers wrote it."""
    claimed = a_rerun().files[".json"].replace(b"144", b"\x1b[2J")
    claim = a_claim(files=a_claim().files | {".json": content_of(claimed)})
    with pytest.raises(ConcludedError) as caught:
        require_match(claim, a_rerun(), ENGINE, {".json": claimed})
    (found,) = caught.value.differences
    assert r"\x1b[2J" in found.claimed
    assert "144" in found.actual


@pytest.mark.parametrize(
    ("tree", "what"),
    [
        (a_tree({"a.txt": b"a"}, "empty"), "result.output/sub/b.txt"),
        (a_tree({"a.txt": b"A", "sub/b.txt": b"b"}, "empty", "sub"), "result.output/a.txt"),
        (a_tree({"a.txt": b"a", "sub/b.txt": b"b", "c": b""}, "empty"), "result.output/c"),
        (a_tree({"a.txt": b"a", "sub/b.txt": b"b"}, "sub"), "result.output cid"),
        (None, "result.output/a.txt"),
    ],
)
def test_comparison_names_output_files_that_differ(tree: Any, what: str) -> None:
    """A missing one, a changed one, one too many, a directory, and all of them."""
    rerun = a_rerun(msgspec.structs.replace(OK, output=tree))
    end = conclusion(a_claim(a_rerun(WITH_OUTPUT)), rerun)
    assert (end.verdict, end.differences[0].what) == (Verdict.MISMATCH, what)


def test_comparison_with_a_receipt_compares_the_directory_as_a_whole() -> None:
    """Its content id covers names, contents and directories."""
    claim = a_claim(a_rerun(WITH_OUTPUT), output_files=None)
    assert require_match(claim, a_rerun(WITH_OUTPUT), ENGINE, {}) == ()
    other = a_rerun(msgspec.structs.replace(OK, output=a_tree({"a.txt": b"A"})))
    for rerun in (other, a_rerun()):
        end = conclusion(claim, rerun)
        assert [found.what for found in end.differences] == ["result.output cid"]
    assert conclusion(a_claim(output_files=None), a_rerun(WITH_OUTPUT)).differences


@pytest.mark.parametrize("has_names", [True, False])
def test_comparison_of_a_directory_without_a_content_id_is_unverifiable(has_names: bool) -> None:
    """Nothing else says which empty directories the claim has."""
    tree = msgspec.structs.replace(TREE, cid=None)
    rerun = a_rerun(msgspec.structs.replace(OK, output=tree))
    claim = a_claim(rerun) if has_names else a_claim(rerun, output_files=None)
    assert conclusion(claim, rerun).verdict is Verdict.UNVERIFIABLE


def test_comparison_with_another_wasmtime_leaves_out_the_fuel_and_says_so() -> None:
    """Its count is not promised to be the same."""
    own = Engine(wasmdrop=ENGINE.wasmdrop, wasmtime="51.0")
    (note,) = require_match(a_claim(fuel_used=1), a_rerun(), own, {})
    assert "fuel was not compared" in note
    assert "51.0" in note


@pytest.mark.parametrize("changed", ["wasmtime", "wasmdrop"])
def test_comparison_with_another_version_is_unverifiable_if_anything_differs(changed: str) -> None:
    """It may be the reason."""
    own = msgspec.structs.replace(ENGINE, **{changed: "51.0"})
    end = conclusion(a_claim(exit_code=1), a_rerun(), own)
    assert end.verdict is Verdict.UNVERIFIABLE
    assert [found.what for found in end.differences] == ["exit code"]
    assert "51.0" in end.reason


@pytest.mark.parametrize("code", sorted(set(Code) - REPRODUCIBLE_CODES - {Code.INTERNAL}))
def test_comparison_with_a_rerun_that_ended_by_chance_is_unverifiable(code: Code) -> None:
    """Also if the claim says the same."""
    rerun = a_rerun(Outcome(code=code, message="words"))
    for claim in (a_claim(), a_claim(rerun)):
        end = conclusion(claim, rerun)
        assert (end.verdict, code in end.reason) == (Verdict.UNVERIFIABLE, True)


@pytest.mark.parametrize(
    "message",
    [
        "stack overflow\n  at fib\n  … 10904 more",
        "while the module was instantiated: stack overflow",
        "error while executing\n\nCaused by:\n  wasm trap: call stack exhausted",
    ],
)
def test_comparison_with_a_rerun_that_overflowed_its_stack_is_unverifiable(message: str) -> None:
    """Also if the claim says the same."""
    rerun = a_rerun(Outcome(code=Code.TRAP, message=message))
    for claim in (a_claim(), a_claim(rerun)):
        assert conclusion(claim, rerun).verdict is Verdict.UNVERIFIABLE


def test_comparison_with_a_rerun_that_failed_is_a_fault_of_this_host() -> None:
    """And says nothing of the claim."""
    with pytest.raises(SandboxError, match="words"):
        require_match(a_claim(), a_rerun(Outcome(code=Code.INTERNAL, message="words")), ENGINE, {})
