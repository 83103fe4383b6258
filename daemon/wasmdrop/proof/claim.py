"""The claim that a marker or a receipt makes: enough to rerun the job and compare the outcome.

Pure. Both documents may come from strangers: every number has a bound and every name is checked
before anything is done with it.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from wasmdrop.proof.statement import (
    SUBJECT_STEM,
    ClaimedLimits,
    Engine,
    Resource,
    Statement,
)
from wasmdrop.protocol.errors import MalformedError
from wasmdrop.protocol.input import MAX_FUEL
from wasmdrop.protocol.marker import MarkedFile, MarkedInput, MarkedModule, MarkedOutput, Marker
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import OUTPUT_SUFFIX, RECEIPT_SUFFIX, RESULT_SUFFIXES
from wasmdrop.protocol.text import describe_value

#: Bounds of a claim, far above those of any host: MiB of a limit, bytes of a file.
_MAX_MB: Final = 1 << 32
_MAX_BYTES: Final = 1 << 53

#: Components of a name, as in a marker.
_MAX_COMPONENTS: Final = 40

_IPFS: Final = "ipfs://"


class Content(msgspec.Struct, frozen=True):
    """A file by its digest."""

    sha256: str
    size_bytes: int | None = None
    """None if it is unknown, as in a receipt."""
    cid: str | None = None
    """None if the document gives none."""


class ClaimedProfile(msgspec.Struct, frozen=True):
    """The deterministic environment that a job ran in."""

    number: int | None
    """None in markers of earlier versions."""
    seed: int
    clock: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One job as a document describes it."""

    id: str | msgspec.UnsetType | None = msgspec.UNSET
    """The producer's own name for the job; unset in a receipt."""
    module: Content | None
    input: Content | None
    entry: str | msgspec.UnsetType | None
    """The entry as called; None if the job ended before, unset in a receipt without its call."""
    args: tuple[Any, ...] | msgspec.UnsetType
    """The arguments as called; unset if the document does not have them."""
    code: Code
    message: str
    exit_code: int | msgspec.UnsetType | None
    """Unset in the claim of a marker without a ``result.json`` that has it."""
    fuel_used: int | None
    limits: ClaimedLimits
    profile: ClaimedProfile | None
    """None if the job was not deterministic."""
    engine: Engine
    files: dict[str, Content]
    """The result files by suffix, such as ``.json``, without the receipt."""
    receipt: Content | None = None
    """The receipt that a marker names."""
    output_files: dict[str, Content] | None
    """The output files by their path in the output directory; None in a receipt, which has only
    the content id of the directory."""
    output: MarkedOutput | msgspec.UnsetType | None
    """The output directory; None if there is none, unset if the document does not say."""


def claim_of_marker(marker: Marker, stem: str, called: Mapping[str, Any] | None) -> Claim:
    """Return what the marker of the slot with this ``stem`` claims.

    ``called`` is the content of the slot's ``result.json``, which has what the marker does not:
    arguments and exit code. None if it can't be parsed. Raises ``MalformedError``.
    """
    files, output_files = _named_files(marker, stem)
    args, exit_code = _call_of(called or {})
    profile = marker.deterministic
    return Claim(
        id=marker.id,
        module=_content(marker.module),
        input=_content(marker.input),
        entry=marker.entry,
        args=args,
        code=marker.code,
        message=marker.message,
        exit_code=exit_code,
        fuel_used=_checked_fuel_used(marker.fuel_used),
        limits=_checked(ClaimedLimits.of(marker.limits)),
        profile=None
        if profile is None
        else ClaimedProfile(profile.profile, profile.seed, profile.clock),
        engine=Engine(wasmdrop=marker.runtime.wasmdrop, wasmtime=marker.runtime.wasmtime),
        files={suffix: file for suffix, file in files.items() if suffix != RECEIPT_SUFFIX},
        receipt=files.get(RECEIPT_SUFFIX),
        output_files=output_files,
        output=_output(marker, output_files),
    )


def claim_of_statement(statement: Statement) -> Claim:
    """Return what a receipt claims. Raises ``MalformedError`` for impossible numbers."""
    run = statement.predicate
    subjects = {
        subject.name.removeprefix(SUBJECT_STEM): Resource(uri=subject.uri, digest=subject.digest)
        for subject in statement.subject
    }
    output = subjects.pop(OUTPUT_SUFFIX, None)
    if output is not None and output.uri != f"{_IPFS}{output.digest.cid}":
        raise MalformedError("statement: result.output: expected the uri of its digest cid")
    return Claim(
        module=None if run.module is None else _content_of(run.module, "module"),
        input=_content_of(run.input, "input"),
        entry=msgspec.UNSET if run.call is None else run.call.entry,
        args=msgspec.UNSET if run.call is None else run.call.args,
        code=run.outcome.code,
        message=run.outcome.message,
        exit_code=run.outcome.exit_code,
        fuel_used=_checked_fuel_used(run.outcome.fuel_used),
        limits=_checked(run.limits),
        profile=ClaimedProfile(run.profile.deterministic, run.profile.seed, run.profile.clock),
        engine=run.engine,
        files={suffix: _content_of(file, suffix) for suffix, file in subjects.items()},
        output_files=None,
        output=None if output is None else MarkedOutput(output.digest.cid),
    )


def _checked(limits: ClaimedLimits) -> ClaimedLimits:
    for name in ("memory_mb", "output_mb", "disk_mb"):
        value = getattr(limits, name)
        if not 0 < value <= _MAX_MB:
            raise MalformedError(f"limits: {name}: {describe_value(value)} is no limit of a job")
    if limits.fuel is not None and not 0 < limits.fuel <= MAX_FUEL:
        raise MalformedError(f"limits: fuel: {describe_value(limits.fuel)} is no limit of a job")
    return limits


def _checked_fuel_used(fuel_used: int | None) -> int | None:
    if fuel_used is not None and not 0 <= fuel_used <= MAX_FUEL:
        raise MalformedError(f"fuel used: {describe_value(fuel_used)} can't be counted")
    return fuel_used


def _named_files(marker: Marker, stem: str) -> tuple[dict[str, Content], dict[str, Content]]:
    """Return the result files by suffix, and the output files by their path."""
    files: dict[str, Content] = {}
    output_files: dict[str, Content] = {}
    directory = f"{stem}{OUTPUT_SUFFIX}/"
    for name, file in marker.files.items():
        if file.bytes > _MAX_BYTES:
            raise MalformedError(f"files: {describe_value(name)} has an impossible size")
        content = Content(file.sha256, file.bytes, file.cid)
        if name.startswith(directory) and _is_plain(name):
            output_files[name.removeprefix(directory)] = content
        elif name.startswith(stem) and (suffix := name.removeprefix(stem)) in RESULT_SUFFIXES:
            files[suffix] = content
        else:
            raise MalformedError(
                f"files: {describe_value(name)} is no result file of {describe_value(stem)}"
            )
    for suffix in (".json", ".txt"):
        if suffix not in files:
            raise MalformedError(f"files: {describe_value(stem + suffix)} is missing")
    return files, output_files


def _is_plain(name: str) -> bool:
    parts = name.split("/")
    return "\0" not in name and len(parts) <= _MAX_COMPONENTS and not {"", ".", ".."} & set(parts)


def _content(named: MarkedFile | MarkedModule | MarkedInput | None) -> Content | None:
    if named is None or named.sha256 is None:
        return None
    return Content(named.sha256, named.bytes, named.cid)


def _content_of(resource: Resource, what: str) -> Content:
    if resource.digest.sha256 is None:
        raise MalformedError(f"statement: {what}: expected a digest sha256")
    cid = None if resource.uri is None else resource.uri.removeprefix(_IPFS)
    return Content(resource.digest.sha256, cid=cid)


def _call_of(
    called: Mapping[str, Any],
) -> tuple[tuple[Any, ...] | msgspec.UnsetType, int | msgspec.UnsetType | None]:
    """Return arguments and exit code; a file that has none of the right type is no daemon's."""
    args, exit_code = called.get("args"), called.get("exit_code")
    is_code = exit_code is None or (isinstance(exit_code, int) and not isinstance(exit_code, bool))
    if not isinstance(args, list) or not is_code:
        return msgspec.UNSET, msgspec.UNSET
    return tuple(args), exit_code


def _output(
    marker: Marker, output_files: Mapping[str, Content]
) -> MarkedOutput | msgspec.UnsetType | None:
    # Markers of earlier versions, which have no profile, say nothing of the directory.
    is_new = marker.deterministic is None or marker.deterministic.profile is not None
    if marker.output is None and (output_files or not is_new):
        return msgspec.UNSET
    return marker.output
