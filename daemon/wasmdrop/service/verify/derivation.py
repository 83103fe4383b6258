"""Derive the call of a claim from its input, and hold the claim against it.

Limits, entry and arguments come from the input. The claim is used only for values that the input
leaves to the executor's environment.
"""

import math
import re
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

from wasmdrop.proof.claim import Claim
from wasmdrop.proof.statement import ClaimedLimits
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.input import InputSpec, limits_for, parse_input
from wasmdrop.protocol.input_values import DIGEST
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.marker import compact
from wasmdrop.protocol.outcome import (
    DETERMINISTIC_CLOCK,
    DETERMINISTIC_PROFILE,
    DETERMINISTIC_SEED,
    Code,
    Outcome,
)
from wasmdrop.protocol.strict_json import path_to
from wasmdrop.protocol.text import describe_value, one_line
from wasmdrop.service.verify.verdict import Difference, difference, mismatch, unverifiable
from wasmdrop.unixfs.cid import Cid, CidError, Codec, parse_cid

#: Refusals whose text depends on the entry and the arguments that the executor chose.
_OF_THE_CALL: Final = frozenset(
    {Code.INVALID_ARGS, Code.ENTRY_NOT_FOUND, Code.UNSUPPORTED_SIGNATURE}
)

#: Words of wasmtime and of wasmdrop for the same trap.
_STACK_OVERFLOW: Final = ("stack overflow", "call stack exhausted")

#: Characters shown of arguments.
_SHOWN: Final = 80


class Derived(msgspec.Struct, frozen=True):
    """What to run."""

    spec: InputSpec
    entry: str | None
    """The entry to ask for: that of the input, else the claimed one."""
    args: tuple[Any, ...] | None
    limits: Limits
    module_tree: Cid | None
    """The content id by which the input names its module, if it has more than one block."""
    notes: tuple[str, ...]
    """What was taken from the claim because the input does not say it."""


def require_verifiable(claim: Claim) -> None:
    """Raise ``ConcludedError`` if a rerun could not confirm the claim, whatever it gives."""
    profile = claim.profile
    if profile is None:
        raise unverifiable("the job was not deterministic")
    if profile.number != DETERMINISTIC_PROFILE:
        raise unverifiable(
            f"the claim's profile is {describe_value(profile.number)}, and this version runs"
            f" profile {DETERMINISTIC_PROFILE}"
        )
    if (profile.seed, profile.clock) != (DETERMINISTIC_SEED, DETERMINISTIC_CLOCK):
        raise unverifiable(
            f"the claim has another seed or clock than profile {DETERMINISTIC_PROFILE}:"
            f" {describe_value(profile.seed)}, {describe_value(profile.clock)}"
        )
    if not claim.code.is_reproducible:
        raise unverifiable(f"the job ended as {claim.code}, which depends on the machine")
    if is_stack_overflow(claim.code, claim.message):
        raise unverifiable(
            "the job ended with a stack overflow, whose depth depends on the machine"
        )


def is_stack_overflow(code: Code, message: str) -> bool:
    """Whether a job ended because its stack of calls was full."""
    return code is Code.TRAP and any(words in message for words in _STACK_OVERFLOW)


def require_limits(claimed: ClaimedLimits, own: Limits) -> None:
    """Raise ``ConcludedError`` if this host's settings allow less than the claim's limits."""
    for name in ("memory_mb", "output_mb", "disk_mb"):
        asked, allowed = getattr(claimed, name), getattr(own, name)
        if asked > allowed:
            raise unverifiable(
                f"the claim's limit {name} is {asked:g}, more than this host allows"
                f" ({allowed:g}); raise WASMDROP_{name.upper()}"
            )
    if own.fuel is not None and (claimed.fuel is None or claimed.fuel > own.fuel):
        asked = "none" if claimed.fuel is None else f"{claimed.fuel}"
        raise unverifiable(
            f"the claim's limit of fuel is {asked}, more than this host allows ({own.fuel});"
            " raise WASMDROP_FUEL"
        )


def derive(claim: Claim, data: bytes, max_sec: float) -> Derived:
    """Return what to run for the input ``data``, for at most ``max_sec``.

    Raises ``ConcludedError`` if the claim contradicts the input, or if the claim and the input
    together do not say enough; ``RefusedError`` if the input is invalid.
    """
    spec = parse_input(data)
    if not spec.deterministic:
        raise unverifiable("the input does not ask for a deterministic job")
    if spec.grants:
        raise unverifiable("the input asks for grants, which are files of the executor")
    if claim.code is Code.INVALID_INPUT and claim.message.startswith(path_to("timeout_sec")):
        raise unverifiable(
            "the executor refused the input's timeout_sec, and its own limit is in no document"
        )
    differences = [
        *_module_differences(claim, spec),
        *_limit_differences(claim, spec),
        *_call_differences(claim, spec),
    ]
    if claim.id not in {msgspec.UNSET, spec.id}:
        differences.append(difference("id", claim.id, spec.id))
    if differences:
        raise mismatch("the claim contradicts its own input", *differences)
    if claim.code in _OF_THE_CALL and (spec.entry is None or spec.args is None):
        missing = "entry" if spec.entry is None else "args"
        raise unverifiable(
            f"the job ended as {claim.code}, and the input has no {missing}: the executor's"
            " environment decided it"
        )
    entry = claim.entry if spec.entry is None else spec.entry
    args = claim.args if spec.args is None else spec.args
    if entry is msgspec.UNSET or args is msgspec.UNSET:
        raise unverifiable(
            "the input leaves its call to the environment of the executor, and the claim's call is"
            " too large for its document"
        )
    return Derived(
        spec=spec,
        entry=entry,
        args=args,
        limits=_with_timeout(claim.limits, max_sec),
        module_tree=_tree_in(spec.module),
        notes=tuple(_notes(claim, spec)),
    )


def _with_timeout(limits: ClaimedLimits, timeout_sec: float) -> Limits:
    return Limits(timeout_sec, limits.memory_mb, limits.output_mb, limits.disk_mb, limits.fuel)


def _notes(claim: Claim, spec: InputSpec) -> list[str]:
    notes: list[str] = []
    if spec.entry is None and isinstance(claim.entry, str):
        notes.append(
            f"the input names no entry; taken from the claim: {describe_value(claim.entry)}"
        )
    if spec.args is None and claim.args:
        shown = one_line(compact(claim.args), _SHOWN)
        notes.append(f"the input has no args; taken from the claim: {shown}")
    return notes


def _module_differences(claim: Claim, spec: InputSpec) -> list[Difference]:
    named = None if spec.module is None else _digest_in(spec.module)
    if named is None or claim.module is None or claim.module.sha256 == named:
        return []
    return [difference("module", claim.module.sha256, spec.module)]


def _digest_in(reference: str) -> str | None:
    """Return the SHA-256 of the module that an input names; None if it is named otherwise."""
    name = _name_in(reference)
    if reference.startswith(DIGEST):
        return reference.removeprefix(DIGEST).lower()
    if re.fullmatch("[0-9a-f]{64}", name):  # as `wasmdrop fetch` names modules
        return name
    cid = _cid_in(reference)
    return cid.digest.hex() if cid is not None and cid.codec is Codec.RAW else None


def _tree_in(reference: str | None) -> Cid | None:
    """Return the content id in the name of a module, if the digest does not follow from it."""
    cid = None if reference is None else _cid_in(reference)
    return None if cid is None or cid.codec is Codec.RAW else cid


def _cid_in(reference: str) -> Cid | None:
    try:
        return parse_cid(_name_in(reference))
    except CidError:
        return None


def _name_in(reference: str) -> str:
    return PurePosixPath(reference).name.removesuffix(".wasm")


def _described(limits: ClaimedLimits) -> str:
    return compact(msgspec.structs.asdict(limits))


def asked_limits(spec: InputSpec, ceiling: Limits) -> Limits:
    """Return the limits that the input asks for, but for the time limit.

    That one shapes no outcome that can be verified. Raises ``RefusedError`` (``invalid-input``) for
    those that no executor with these limits accepts.
    """
    return limits_for(msgspec.structs.replace(spec, timeout_sec=None), ceiling)


def _limit_differences(claim: Claim, spec: InputSpec) -> list[Difference]:
    ceiling = _with_timeout(claim.limits, math.inf)
    if spec.timeout_sec is not None and spec.timeout_sec <= 0:
        return [difference("timeout_sec", "accepted", f"{spec.timeout_sec:g}, which is refused")]
    try:
        limits = asked_limits(spec, ceiling)
    except RefusedError as refusal:
        if claim.code is Code.INVALID_INPUT:
            return []  # this refusal may be the outcome, and the limits are those of the executor
        return [difference("limits", _described(claim.limits), refusal)]
    return [
        difference(f"limits.{name}", getattr(ceiling, name), getattr(limits, name))
        for name in ("memory_mb", "output_mb", "disk_mb", "fuel")
        if getattr(limits, name) != getattr(ceiling, name)
    ]


def _call_differences(claim: Claim, spec: InputSpec) -> list[Difference]:
    differences = []
    if spec.entry is not None and claim.entry not in {msgspec.UNSET, spec.entry}:
        differences.append(difference("entry", claim.entry, spec.entry))
    if spec.args is not None and claim.args is not msgspec.UNSET:
        # As text: 1, 1.0 and true are equal in Python.
        claimed, asked = compact(list(claim.args)), compact(list(spec.args))
        if claimed != asked:
            differences.append(difference("args", claimed, asked))
    return differences


def ends_by_chance(outcome: Outcome) -> str | None:
    """Return why the outcome of a rerun says nothing; None if it does."""
    if not outcome.code.is_reproducible:
        message = one_line(outcome.message.partition("\n")[0], 2 * _SHOWN)
        return f"run here, the job ended as {outcome.code}, which depends on the machine: {message}"
    if is_stack_overflow(outcome.code, outcome.message):
        return "run here, the job ended with a stack overflow, whose depth depends on the machine"
    return None
