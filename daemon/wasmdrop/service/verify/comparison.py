"""Compare a claim with the outcome of a rerun. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from wasmdrop.jobs.result_files import mark_file
from wasmdrop.proof.claim import Claim, Content
from wasmdrop.proof.statement import Engine, Resource, encode_statement, statement_of
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.marker import MarkedFile, compact
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import OUTPUT_SUFFIX
from wasmdrop.service.verify.derivation import ends_by_chance
from wasmdrop.service.verify.rerun import Rerun
from wasmdrop.service.verify.slot_files import (
    MAX_DIFFERENCES,
    compare_contents,
    compare_directories,
    compare_trees,
)
from wasmdrop.service.verify.verdict import (
    ConcludedError,
    Difference,
    difference,
    mismatch,
    unverifiable,
)

#: The stem of result files in messages, whatever the slot is called.
_STEM: Final = "result"

_OUTPUT: Final = f"{_STEM}{OUTPUT_SUFFIX}"

#: Bytes shown around the first difference of two files, and of those before it.
_SHOWN_BYTES: Final = 80
_SHOWN_BEFORE: Final = 40


def require_match(
    claim: Claim, rerun: Rerun, own: Engine, contents: Mapping[str, bytes]
) -> tuple[str, ...]:
    """Return what was not compared; raise ``ConcludedError`` if the rerun is no match.

    ``contents`` are result files of the claim by suffix, as far as they are at hand: differences
    are shown as text then. Raises ``SandboxError`` if the rerun failed by a fault of its own.
    """
    outcome = rerun.outcome
    if outcome.code is Code.INTERNAL:
        raise SandboxError(f"the job could not be run again: {outcome.message}")
    reason = ends_by_chance(outcome)
    if reason is not None:
        raise unverifiable(reason)
    is_same_engine = claim.engine.wasmtime == own.wasmtime
    differences = [
        *_compare_outcomes(claim, rerun, with_fuel=is_same_engine),
        *_compare_files(claim, rerun, contents),
        *_compare_output(claim, rerun),
    ][:MAX_DIFFERENCES]
    if differences:
        raise conclude(claim, own, differences)
    return () if is_same_engine else (f"fuel was not compared: {_other_engine(claim, own)}",)


def require_same_statement(claim: Claim, rerun: Rerun, own: Engine, payload: bytes) -> None:
    """Raise ``ConcludedError`` if a receipt is not, byte for byte, what this version states.

    Called after a match. With the same engine, anything else in it is not true of the job.
    """
    if claim.engine != own or claim.module is None or claim.input is None:
        return
    tree, limits = rerun.outcome.output, claim.limits
    statement = statement_of(
        {suffix: _resource(mark_file(data)) for suffix, data in rerun.files.items()},
        None if tree is None else tree.cid,
        _resource(claim.module),
        _resource(claim.input),
        rerun.entry,
        rerun.args,
        Limits(0, limits.memory_mb, limits.output_mb, limits.disk_mb, limits.fuel),
        own,
        rerun.outcome,
    )
    expected = encode_statement(statement)
    if payload != expected:
        excerpts = _excerpts(payload, expected)
        raise mismatch("the receipt is not what the job gives", difference("receipt", *excerpts))


def _resource(file: Content | MarkedFile) -> Resource:
    return Resource.of(file.sha256, file.cid)


def conclude(claim: Claim, own: Engine, differences: Sequence[Difference]) -> ConcludedError:
    """Return the end of a verification in which the job came out differently.

    Another version may be the reason, and not the executor.
    """
    if claim.engine == own:
        return mismatch("the job came out differently", *differences)
    reason = (
        f"the job was run by {describe_engine(claim.engine)} and comes out differently with"
        f" {describe_engine(own)}"
    )
    return unverifiable(reason, *differences)


def describe_engine(engine: Engine) -> str:
    """Return the versions of an engine for a message."""
    return f"wasmdrop {engine.wasmdrop} with wasmtime {engine.wasmtime}"


def _other_engine(claim: Claim, own: Engine) -> str:
    return f"the claim is of wasmtime {claim.engine.wasmtime}, this is {own.wasmtime}"


def _compare_outcomes(claim: Claim, rerun: Rerun, *, with_fuel: bool) -> list[Difference]:
    outcome = rerun.outcome
    pairs: list[tuple[str, object, object]] = [
        ("code", claim.code, outcome.code),
        ("message", claim.message, outcome.message),
        ("entry", claim.entry, rerun.entry),
        ("exit code", claim.exit_code, outcome.exit_code),
    ]
    if claim.args is not msgspec.UNSET:
        pairs.append(("args", compact(list(claim.args)), compact(list(rerun.args))))
    if with_fuel:
        pairs.append(("fuel", claim.fuel_used, outcome.fuel_used))
    return [difference(*pair) for pair in pairs if pair[1] not in {msgspec.UNSET, pair[2]}]


def _compare_files(claim: Claim, rerun: Rerun, contents: Mapping[str, bytes]) -> list[Difference]:
    differences = []
    for suffix in sorted(claim.files.keys() | rerun.files.keys()):
        name = f"{_STEM}{suffix}"
        claimed, data = claim.files.get(suffix), rerun.files.get(suffix)
        if data is None:
            differences.append(difference(name, claimed and claimed.sha256, "no such file"))
        elif claimed is None:
            differences.append(difference(name, "no such file", f"{len(data)} bytes"))
        elif suffix in contents and contents[suffix] != data:
            differences.append(difference(name, *_excerpts(contents[suffix], data)))
        else:
            file = mark_file(data)
            found = compare_contents(name, claimed, Content(file.sha256, file.bytes, file.cid))
            differences += [] if found is None else [found]
    return differences


def _compare_output(claim: Claim, rerun: Rerun) -> list[Difference]:
    tree = rerun.outcome.output
    differences = []
    if claim.output_files is not None:
        differences = compare_trees(_OUTPUT, claim.output_files, tree)
    differences = differences or compare_directories(_OUTPUT, claim, tree)
    if not differences and tree is not None and tree.cid is None:
        # Its files are equal, but nothing says which directories the claim has.
        raise unverifiable("the names of the output files allow no content id of their directory")
    return differences


def _excerpts(claimed: bytes, actual: bytes) -> tuple[str, str]:
    """Return both contents around their first difference."""
    shorter = min(len(claimed), len(actual))
    at = next((i for i in range(shorter) if claimed[i] != actual[i]), shorter)
    start = max(0, at - _SHOWN_BEFORE)
    return _excerpt(claimed, start), _excerpt(actual, start)


def _excerpt(data: bytes, start: int) -> str:
    before = "…" if start else ""
    return before + data[start : start + _SHOWN_BYTES].decode("utf-8", "replace")
