"""The statement of a receipt: what a deterministic job computed, from what, under which limits.

An in-toto Statement v1 (https://github.com/in-toto/attestation/tree/main/spec/v1) about the result
files of one job. It has no time, job id, slot, path or host, so honest executors make the same
bytes, and one envelope can hold the signatures of all of them. Integers are exact, whatever their
size.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

import msgspec

from wasmdrop.protocol import strict_json
from wasmdrop.protocol.errors import MalformedError, RefusedError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.marker import compact, printable
from wasmdrop.protocol.outcome import (
    DETERMINISTIC_CLOCK,
    DETERMINISTIC_PROFILE,
    DETERMINISTIC_SEED,
    Code,
    Outcome,
)
from wasmdrop.protocol.slot import OUTPUT_SUFFIX, RECEIPT_SUFFIX, RESULT_SUFFIXES
from wasmdrop.protocol.text import one_line

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"

#: Identifies the meaning of the predicate. It is a name, not an address.
PREDICATE_TYPE: Final = "urn:wasmdrop:run:v1"

#: Largest JSON of a call that a statement repeats, in bytes. Arguments may have megabytes.
MAX_CALL_BYTES: Final = 64 * 1024

#: Deepest nesting of its arguments: readers accept no JSON that is nested deeper than 64.
MAX_CALL_DEPTH: Final = 32

#: A subject is named after its suffix, whatever the slot is called.
SUBJECT_STEM: Final = "result"

_SUBJECTS: Final = frozenset(
    f"{SUBJECT_STEM}{suffix}"
    for suffix in (*RESULT_SUFFIXES, OUTPUT_SUFFIX)
    if suffix != RECEIPT_SUFFIX
)
_ALWAYS: Final = frozenset({f"{SUBJECT_STEM}.json", f"{SUBJECT_STEM}.txt"})

# "$" alone also matches before a newline at the end, in Python.
_ContentId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{8,128}$(?!\n)")]
_Uri = Annotated[str, msgspec.Meta(pattern=r"^ipfs://[A-Za-z0-9]{8,128}$(?!\n)")]
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Name = Annotated[str, msgspec.Meta(max_length=64)]


class _Strict(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """An object without other keys: what a verifier does not know, it can't check."""


class DigestSet(_Strict, frozen=True, kw_only=True):
    """Digests of one thing. A file has ``sha256``, a directory ``cid``."""

    sha256: Annotated[
        _Sha256 | None, msgspec.Meta(description="SHA-256 of the bytes of a file, in hex.")
    ] = None
    cid: Annotated[
        _ContentId | None, msgspec.Meta(description="Content id of a directory, as in its uri.")
    ] = None


class Resource(_Strict, frozen=True, kw_only=True):
    """The module or the input."""

    uri: Annotated[
        _Uri | None, msgspec.Meta(description="ipfs:// and the content id, unixfs-v1-2025.")
    ] = None
    digest: DigestSet

    @classmethod
    def of(cls, sha256: str, cid: str | None) -> Self:
        """Return the resource with this digest and content id."""
        return cls(uri=None if cid is None else f"ipfs://{cid}", digest=DigestSet(sha256=sha256))


class Subject(_Strict, frozen=True, kw_only=True):
    """A result file, or the output directory as a whole."""

    name: Annotated[
        _Name, msgspec.Meta(description="result.json, result.output, ..., in any slot.")
    ]
    uri: Annotated[
        _Uri | None, msgspec.Meta(description="ipfs:// and the content id, unixfs-v1-2025.")
    ] = None
    digest: DigestSet


class CalledFunction(_Strict, frozen=True, kw_only=True):
    """The call as it was made, wherever entry and arguments came from."""

    entry: str | None
    args: tuple[Any, ...]


class Profile(_Strict, frozen=True, kw_only=True):
    """The deterministic environment of the guest. Another executor needs the same one."""

    deterministic: Annotated[
        int, msgspec.Meta(ge=1, description="Number of the rules for clock, random and files.")
    ]
    seed: int
    clock: Annotated[_Name, msgspec.Meta(description="The time at which the clock starts.")]


#: The profile of jobs that this version runs.
PROFILE: Final = Profile(
    deterministic=DETERMINISTIC_PROFILE, seed=DETERMINISTIC_SEED, clock=DETERMINISTIC_CLOCK
)


class ClaimedLimits(_Strict, frozen=True, kw_only=True, rename="camel"):
    """The limits that may change a result. The timeout is not among them."""

    memory_mb: Annotated[int, msgspec.Meta(ge=1)]
    output_mb: Annotated[float, msgspec.Meta(gt=0)]
    disk_mb: Annotated[int, msgspec.Meta(ge=1)]
    fuel: Annotated[int | None, msgspec.Meta(description="null for no limit.")]

    @classmethod
    def of(cls, limits: Limits) -> Self:
        """Return those of ``limits``."""
        return cls(
            memory_mb=limits.memory_mb,
            output_mb=limits.output_mb,
            disk_mb=limits.disk_mb,
            fuel=limits.fuel,
        )


class Engine(_Strict, frozen=True, kw_only=True):
    """Versions of the software that ran the job. Fuel is comparable for equal ones only."""

    wasmdrop: _Name
    wasmtime: _Name


class ClaimedOutcome(_Strict, frozen=True, kw_only=True, rename="camel"):
    """How the job ended."""

    code: Code
    message: str = ""
    exit_code: int | None = None
    fuel_used: Annotated[
        _Count | None, msgspec.Meta(description="null if the job never ran, or was killed.")
    ]


class Run(_Strict, frozen=True, kw_only=True):
    """The predicate: all that another executor needs to run the job again."""

    module: Annotated[
        Resource | None, msgspec.Meta(description="null if the job's module is missing.")
    ]
    input: Resource
    call: Annotated[
        CalledFunction | None,
        msgspec.Meta(description="null if it is larger than 64 KiB, or too deep: see result.json."),
    ]
    profile: Profile
    limits: ClaimedLimits
    engine: Engine
    outcome: ClaimedOutcome


class Statement(_Strict, frozen=True, kw_only=True):
    """An in-toto statement about one run of a deterministic job."""

    type: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: tuple[Subject, ...]
    predicate_type: Literal["urn:wasmdrop:run:v1"] = msgspec.field(name="predicateType")
    predicate: Run


def statement_of(
    files: Mapping[str, Resource],
    output_cid: str | None,
    module: Resource | None,
    given: Resource,
    entry: str | None,
    args: tuple[Any, ...],
    limits: Limits,
    engine: Engine,
    outcome: Outcome,
) -> Statement:
    """Return the statement about one finished job.

    ``files`` are its result files by suffix, without the receipt; ``output_cid`` is the content id
    of its output directory, if there is one; ``given`` is its input. ``entry`` and ``args`` are
    those called, as ``result.json`` shows them.
    """
    subjects = [
        Subject(name=f"{SUBJECT_STEM}{suffix}", uri=file.uri, digest=file.digest)
        for suffix, file in files.items()
    ]
    if output_cid is not None:
        name, uri = f"{SUBJECT_STEM}{OUTPUT_SUFFIX}", f"ipfs://{output_cid}"
        subjects.append(Subject(name=name, uri=uri, digest=DigestSet(cid=output_cid)))
    call = CalledFunction(entry=entry, args=args)
    return Statement(
        type=STATEMENT_TYPE,
        subject=tuple(sorted(subjects, key=lambda subject: subject.name)),
        predicate_type=PREDICATE_TYPE,
        predicate=Run(
            module=module,
            input=given,
            call=call if is_stated(call) else None,
            profile=PROFILE,
            limits=ClaimedLimits.of(limits),
            engine=engine,
            outcome=ClaimedOutcome(
                code=outcome.code,
                # Such a message may name a path of the host, and is no claim that holds elsewhere.
                message=outcome.message if outcome.code.is_reproducible else "",
                exit_code=outcome.exit_code,
                fuel_used=outcome.fuel_used,
            ),
        ),
    )


def encode_statement(statement: Statement) -> bytes:
    """Return the payload of a receipt: one line of compact JSON, keys in the order of the types."""
    return _encoded(statement)


def parse_statement(payload: bytes) -> Statement:
    """Parse the payload of a receipt strictly.

    Raises ``MalformedError`` for invalid JSON, duplicate or unknown keys, another type of statement
    or predicate, and subjects that a job can't have. Digests and content ids are checked for form
    only.
    """
    try:
        value = strict_json.parse(payload)
        statement = msgspec.convert(value, Statement, strict=True)
    except RefusedError as refusal:
        raise MalformedError(f"statement: {refusal.message}") from None
    except msgspec.ValidationError as error:
        raise MalformedError(f"statement: {one_line(str(error), 300)}") from None
    _check_subjects(statement.subject)
    for what, resource in (
        ("module", statement.predicate.module),
        ("input", statement.predicate.input),
    ):
        if resource is not None:
            _check_digest(what, resource.digest, "sha256")
    return statement


def _check_subjects(subjects: tuple[Subject, ...]) -> None:
    names = [subject.name for subject in subjects]
    if not _ALWAYS <= set(names) <= _SUBJECTS or len(set(names)) < len(names):
        raise MalformedError(
            "statement: $.subject: expected result.json, result.txt and other results, each once,"
            f" got {one_line(', '.join(names), 200)}"
        )
    for subject in subjects:
        kind = "cid" if subject.name.endswith(OUTPUT_SUFFIX) else "sha256"
        _check_digest(f"subject {subject.name}", subject.digest, kind)


def _check_digest(what: str, digest: DigestSet, expected: str) -> None:
    """Raise ``MalformedError`` unless the digest is there alone.

    Readers of in-toto match by any digest of a set, so one that no verifier checks must not be in
    it.
    """
    if [kind for kind in ("sha256", "cid") if getattr(digest, kind) is not None] != [expected]:
        raise MalformedError(f"statement: {what}: expected the digest {expected} alone")


def is_stated(call: CalledFunction) -> bool:
    """Whether a statement repeats a call: not if it is too large, or nested too deep."""
    encoded = _encoded(call)
    if len(encoded) > MAX_CALL_BYTES:
        return False
    brackets = encoded.count(b"[") + encoded.count(b"{")
    return brackets <= MAX_CALL_DEPTH or _depth(call.args) <= MAX_CALL_DEPTH


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list | tuple):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _encoded(value: msgspec.Struct) -> bytes:
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:  # ENTRY of an environment may be anything
        return printable(compact(msgspec.to_builtins(value)))


_encoder: Final = msgspec.json.Encoder()
