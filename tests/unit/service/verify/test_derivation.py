"""The call of a claim: derived from its input, and held against the claim."""

import json
from typing import Any

import msgspec
import pytest

from tests.support.claims import PROFILE, a_claim
from tests.support.receipts import DIRECTORY_CID
from wasmdrop.proof.statement import ClaimedLimits
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import REPRODUCIBLE_CODES, Code
from wasmdrop.service.verify.derivation import (
    Derived,
    asked_limits,
    derive,
    require_limits,
    require_verifiable,
)
from wasmdrop.service.verify.verdict import ConcludedError, Verdict
from wasmdrop.unixfs.cid import raw_cid

FULL: dict[str, Any] = {"entry": "fib", "args": [12], "deterministic": True}
LIMITS = ClaimedLimits(memory_mb=10, output_mb=2.5, disk_mb=20, fuel=1000)


def derived(changes: dict[str, Any], **claimed: Any) -> Derived:
    """Return the derivation for an input with other keys."""
    return derive(a_claim(**claimed), json.dumps(FULL | changes).encode(), 7.0)


def conclusion(changes: dict[str, Any], **claimed: Any) -> ConcludedError:
    """Return how a derivation ends that gives nothing to run."""
    with pytest.raises(ConcludedError) as caught:
        derived(changes, **claimed)
    return caught.value


def test_derivation_runs_with_exactly_the_claimed_limits_but_the_own_time() -> None:
    """The time of the claim shapes no outcome that can be verified."""
    found = derived({"timeout_sec": 3600}, limits=LIMITS)
    assert found.limits == Limits(7.0, 10, 2.5, 20, 1000)
    assert (found.entry, found.args, found.notes) == ("fib", (12,), ())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"memory_mb": 9}, ["limits.memory_mb"]),
        ({"output_mb": 2}, ["limits.output_mb"]),
        ({"disk_mb": 1}, ["limits.disk_mb"]),
        ({"fuel": 999}, ["limits.fuel"]),
        ({"memory_mb": 9, "fuel": 1}, ["limits.memory_mb", "limits.fuel"]),
        ({"memory_mb": 11}, ["limits"]),
        ({"entry": "fab"}, ["entry"]),
        ({"args": [13]}, ["args"]),
        ({"args": [12.0]}, ["args"]),
        ({"args": [True]}, ["args"]),
        ({"id": "task-7"}, ["id"]),
    ],
)
def test_derivation_names_what_the_input_asks_for_otherwise(
    changes: dict[str, Any], what: list[str]
) -> None:
    """Such a claim is false before anything runs."""
    end = conclusion(changes, limits=LIMITS)
    assert (end.verdict, [found.what for found in end.differences]) == (Verdict.MISMATCH, what)


def test_derivation_accepts_limits_that_the_input_asks_for() -> None:
    """And those that it leaves to the executor."""
    keys = {"memory_mb": 10, "output_mb": 2.5, "disk_mb": 20, "fuel": 1000}
    assert derived(keys, limits=LIMITS).limits == derived({}, limits=LIMITS).limits


def test_derivation_of_a_receipt_does_not_compare_the_id_of_the_producer() -> None:
    """It has none."""
    assert derived({"id": "task-7"}, id=msgspec.UNSET).entry == "fib"


def test_derivation_takes_from_the_claim_what_the_input_leaves_to_the_executor() -> None:
    """And says so."""
    found = derived({"entry": None, "args": None})
    assert (found.entry, found.args) == ("fib", (12,))
    assert [note.partition(";")[0] for note in found.notes] == [
        "the input names no entry",
        "the input has no args",
    ]


@pytest.mark.parametrize(
    ("changes", "claimed", "words"),
    [
        ({"deterministic": False}, {}, "does not ask for a deterministic job"),
        ({"deterministic": None}, {}, "does not ask for a deterministic job"),
        ({"grants": ["data"]}, {}, "grants"),
        ({"args": None}, {"entry": msgspec.UNSET, "args": msgspec.UNSET}, "too large"),
        ({"entry": None}, {"entry": msgspec.UNSET, "args": msgspec.UNSET}, "too large"),
        ({"entry": None}, {"code": Code.ENTRY_NOT_FOUND}, "no entry: the executor's env"),
        ({"args": None}, {"code": Code.INVALID_ARGS}, "has no args"),
        ({"args": None}, {"code": Code.UNSUPPORTED_SIGNATURE}, "environment"),
    ],
)
def test_derivation_without_all_that_shapes_the_outcome_is_unverifiable(
    changes: dict[str, Any], claimed: dict[str, Any], words: str
) -> None:
    """With the reason."""
    end = conclusion(changes, **claimed)
    assert (end.verdict, words in end.reason) == (Verdict.UNVERIFIABLE, True)


def test_derivation_without_the_claimed_call_uses_that_of_the_input() -> None:
    """It may be too large for a receipt."""
    found = derived({"args": [9007199254740993]}, entry=msgspec.UNSET, args=msgspec.UNSET)
    assert (found.entry, found.args) == ("fib", (9007199254740993,))


def test_derivation_of_an_invalid_input_is_refused_as_by_the_daemon() -> None:
    """The caller compares that with the claim."""
    with pytest.raises(RefusedError) as caught:
        derived({"unknown": 1})
    assert caught.value.code is Code.INVALID_INPUT


@pytest.mark.parametrize("code", sorted(Code))
def test_claim_of_each_code_is_verifiable_only_if_it_is_reproducible(code: Code) -> None:
    """By the table beside the codes."""
    if code in REPRODUCIBLE_CODES:
        require_verifiable(a_claim(code=code))
        return
    with pytest.raises(ConcludedError) as caught:
        require_verifiable(a_claim(code=code))
    assert (caught.value.verdict, code in caught.value.reason) == (Verdict.UNVERIFIABLE, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"profile": None}, "not deterministic"),
        ({"profile": msgspec.structs.replace(PROFILE, number=None)}, "profile is null"),
        ({"profile": msgspec.structs.replace(PROFILE, number=2)}, "profile is 2"),
        ({"profile": msgspec.structs.replace(PROFILE, number=10**4000)}, "bits"),
        ({"profile": msgspec.structs.replace(PROFILE, seed=1)}, "another seed"),
        ({"profile": msgspec.structs.replace(PROFILE, clock="now")}, "clock"),
        ({"code": Code.TRAP, "message": "stack overflow\n  at fib"}, "stack overflow"),
    ],
)
def test_claim_that_no_rerun_can_confirm_is_unverifiable(
    changes: dict[str, Any], words: str
) -> None:
    """Before anything runs."""
    with pytest.raises(ConcludedError) as caught:
        require_verifiable(a_claim(**changes))
    assert (caught.value.verdict, words in caught.value.reason) == (Verdict.UNVERIFIABLE, True)


def test_claim_with_the_limits_of_this_host_can_be_run() -> None:
    """No lower ones, and with any fuel if there is no limit."""
    own = Limits(1.0, 10, 2.5, 20)
    require_limits(LIMITS, own)
    require_limits(LIMITS, msgspec.structs.replace(own, fuel=1000))


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"memory_mb": 9}, "WASMDROP_MEMORY_MB"),
        ({"output_mb": 2.4}, "WASMDROP_OUTPUT_MB"),
        ({"disk_mb": 19}, "WASMDROP_DISK_MB"),
        ({"fuel": 999}, "WASMDROP_FUEL"),
    ],
)
def test_claim_with_higher_limits_than_this_host_allows_is_unverifiable(
    changes: dict[str, Any], variable: str
) -> None:
    """With the setting to raise."""
    own = msgspec.structs.replace(Limits(1.0, 10, 2.5, 20, 1000), **changes)
    with pytest.raises(ConcludedError) as caught:
        require_limits(LIMITS, own)
    assert (caught.value.verdict, variable in caught.value.reason) == (Verdict.UNVERIFIABLE, True)


def test_claim_without_a_limit_of_fuel_is_unverifiable_if_this_host_has_one() -> None:
    """A rerun would end earlier."""
    unlimited = ClaimedLimits(memory_mb=1, output_mb=1.0, disk_mb=1, fuel=None)
    with pytest.raises(ConcludedError, match="WASMDROP_FUEL"):
        require_limits(unlimited, Limits(fuel=10**9))


@pytest.mark.parametrize("changes", [{"memory_mb": 11}, {"fuel": -1}, {"disk_mb": 0}])
def test_derivation_of_a_refused_limit_leaves_the_refusal_to_the_rerun(
    changes: dict[str, Any],
) -> None:
    """Such a job is refused everywhere with the same words, and its limits are the executor's."""
    refused: dict[str, Any] = {"limits": LIMITS, "code": Code.INVALID_INPUT, "message": "$.x: no"}
    found = derived(changes, **refused)
    assert found.limits == Limits(7.0, 10, 2.5, 20, 1000)
    with pytest.raises(RefusedError):
        asked_limits(found.spec, found.limits)


def test_derivation_of_another_refusal_holds_the_limits_against_the_input() -> None:
    """They were accepted."""
    end = conclusion({"memory_mb": 9}, limits=LIMITS, code=Code.INVALID_INPUT, message="$.files: x")
    assert [found.what for found in end.differences] == ["limits.memory_mb"]


def test_derivation_of_a_refused_time_limit_is_unverifiable() -> None:
    """The words name the time limit of the executor, which no claim has."""
    message = "$.timeout_sec: 99 is more than this daemon allows (20)"
    end = conclusion({"timeout_sec": 99}, code=Code.INVALID_INPUT, message=message)
    assert (end.verdict, "timeout_sec" in end.reason) == (Verdict.UNVERIFIABLE, True)


@pytest.mark.parametrize("code", [Code.OK, Code.INVALID_INPUT])
def test_derivation_of_a_time_limit_that_every_executor_refuses_is_a_mismatch(code: Code) -> None:
    """Nobody ran that job."""
    end = conclusion({"timeout_sec": 0}, code=code, message="$.files: x")
    assert [found.what for found in end.differences] == ["timeout_sec"]


@pytest.mark.parametrize(
    "reference",
    ["sha256:{0}", "{0}", "{0}.wasm", "{1}", "{1}.wasm", "group/{1}.wasm"],
)
def test_derivation_holds_the_module_against_a_digest_in_the_input(reference: str) -> None:
    """The input names it by digest, or by a file whose name is its CID."""
    for digit in "ab":
        named = reference.format(digit * 64, raw_cid(digit * 64))
        if digit == "a":
            assert derived({"module": named}).entry == "fib"
            assert derived({"module": "sha256:" + "A" * 64}).entry == "fib"
        else:
            assert [found.what for found in conclusion({"module": named}).differences] == ["module"]


@pytest.mark.parametrize("reference", ["fib", "group/fib.wasm", DIRECTORY_CID])
def test_derivation_of_a_module_without_a_digest_in_the_input_takes_the_claimed_one(
    reference: str,
) -> None:
    """The root of a tree of blocks says nothing of the SHA-256 of the file."""
    found = derived({"module": reference})
    assert found.spec.module == reference
    assert (found.module_tree is not None) == (reference == DIRECTORY_CID)
