"""Read the claim of a document: of a marker with its receipt, or of a receipt alone."""

import hashlib
from typing import Any

import msgspec

from wasmdrop.proof.claim import Claim, claim_of_marker, claim_of_statement
from wasmdrop.proof.envelope import Envelope, parse_envelope
from wasmdrop.proof.statement import parse_statement
from wasmdrop.protocol import strict_json
from wasmdrop.protocol.errors import MalformedError, RefusedError
from wasmdrop.protocol.marker import Marker, compact
from wasmdrop.protocol.slot import MARKER_SUFFIX, RECEIPT_SUFFIX
from wasmdrop.protocol.text import one_line
from wasmdrop.service.verify.documents import (
    MAX_DOCUMENT_BYTES,
    Document,
    DocumentDirectory,
    UnreadableError,
)
from wasmdrop.service.verify.slot_files import check_slot_files
from wasmdrop.service.verify.verdict import Difference, DocumentError, difference, mismatch


class Claimed(msgspec.Struct, frozen=True):
    """A claim and its receipt, if it has one."""

    claim: Claim
    stem: str
    """The stem of the result files beside the document."""
    envelope: Envelope | None
    contents: dict[str, bytes]
    """Result files by suffix, as far as they are small and at hand."""


def read_claim(directory: DocumentDirectory, document: Document, max_bytes: int) -> Claimed:
    """Return the claim of a document.

    The files that a marker names, at most ``max_bytes``, must be beside it with its digests, and a
    receipt among them must claim the same. Raises ``DocumentError`` if the document is malformed,
    ``ConcludedError`` if something differs.
    """
    try:
        if document.is_receipt:
            envelope, claim = parse_receipt(document.data)
            stem = document.name.removesuffix(RECEIPT_SUFFIX)
            return Claimed(claim, stem, envelope, {})
        return _read_marker(directory, document, max_bytes)
    except MalformedError as error:
        raise DocumentError(f"{directory.path_of(document.name)}: {error}") from None


def parse_receipt(data: bytes) -> tuple[Envelope, Claim]:
    """Return the envelope of a receipt, and the claim of its payload.

    Raises ``MalformedError``. No signature is verified.
    """
    envelope = parse_envelope(data)
    return envelope, claim_of_statement(parse_statement(envelope.payload))


def _read_marker(directory: DocumentDirectory, document: Document, max_bytes: int) -> Claimed:
    if not document.name.endswith(MARKER_SUFFIX):
        raise MalformedError(f"the name of a marker ends in {MARKER_SUFFIX}")
    stem = document.name.removesuffix(MARKER_SUFFIX)
    try:
        marker = msgspec.convert(document.body, Marker, strict=True)
    except msgspec.ValidationError as error:
        raise MalformedError(f"marker: {one_line(str(error))}") from None
    claim = claim_of_marker(marker, stem, None)
    differences = check_slot_files(directory, stem, claim, max_bytes)
    if marker.status is not marker.code.status:
        differences.append(difference("status", marker.status, marker.code.status))
    if differences:
        raise mismatch("the files beside the marker are not those that it names", *differences)
    contents = _contents(directory, stem, claim)
    called = _called(contents.get(".json"))
    claim = claim_of_marker(marker, stem, called)
    envelope = None
    if claim.receipt is not None:
        if RECEIPT_SUFFIX not in contents:
            raise MalformedError(f"the receipt has more than {MAX_DOCUMENT_BYTES} bytes")
        envelope, other = parse_receipt(contents[RECEIPT_SUFFIX])
        differences = compare_claims(claim, other)
        if differences:
            raise mismatch("the receipt contradicts the marker", *differences)
        if claim.args is msgspec.UNSET:
            claim = msgspec.structs.replace(claim, args=other.args, exit_code=other.exit_code)
    return Claimed(claim, stem, envelope, contents)


def _contents(directory: DocumentDirectory, stem: str, claim: Claim) -> dict[str, bytes]:
    """Return the small result files whose digests are as claimed."""
    named = claim.files if claim.receipt is None else claim.files | {RECEIPT_SUFFIX: claim.receipt}
    contents = {}
    for suffix, file in named.items():
        if (file.size_bytes or 0) > MAX_DOCUMENT_BYTES:
            continue
        try:
            data = directory.read(stem + suffix)
        except (FileNotFoundError, UnreadableError):
            data = b""
        # The digest again: the file may have changed since it was checked.
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise mismatch(
                "the files changed while they were read",
                difference(stem + suffix, file.sha256, "another content"),
            )
        contents[suffix] = data
    return contents


def _called(data: bytes | None) -> dict[str, Any] | None:
    """Return the content of ``result.json``; None if it is too large or no object."""
    try:
        body = None if data is None else strict_json.parse(data)
    except RefusedError:
        return None
    return body if isinstance(body, dict) else None


def compare_claims(claim: Claim, receipt: Claim) -> list[Difference]:
    """Return how the claim of a receipt differs from that of the marker beside it."""
    pairs: list[tuple[str, object, object]] = [
        ("module", claim.module and claim.module.sha256, receipt.module and receipt.module.sha256),
        ("input", claim.input and claim.input.sha256, receipt.input and receipt.input.sha256),
        ("code", claim.code, receipt.code),
        ("fuel", claim.fuel_used, receipt.fuel_used),
        ("limits", claim.limits, receipt.limits),
        ("profile", claim.profile, receipt.profile),
        ("engine", claim.engine, receipt.engine),
        ("entry", claim.entry, receipt.entry),
        ("exit code", claim.exit_code, receipt.exit_code),
        ("args", _text(claim.args), _text(receipt.args)),
        ("result.output", claim.output, receipt.output),
    ]
    if claim.code.is_reproducible:
        pairs.append(("message", claim.message, receipt.message))
    for suffix in sorted(claim.files.keys() | receipt.files.keys()):
        one, other = claim.files.get(suffix), receipt.files.get(suffix)
        pairs.append((f"result{suffix}", one and one.sha256, other and other.sha256))
    return [
        difference(f"receipt: {what}", claimed, actual)
        for what, claimed, actual in pairs
        if claimed != actual and msgspec.UNSET not in {claimed, actual}
    ]


def _text(args: tuple[Any, ...] | msgspec.UnsetType) -> str | msgspec.UnsetType:
    """Return arguments as text: 1, 1.0 and true are equal in Python."""
    return args if isinstance(args, msgspec.UnsetType) else compact(list(args))
