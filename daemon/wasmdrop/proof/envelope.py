"""The envelope of a receipt: a payload and signatures of it (DSSE).

https://github.com/secure-systems-lab/dsse. A signature is over the bytes of the payload, so they
are never encoded again: what was signed is what is parsed. The key id is a hint and proves nothing;
only a signature that a trusted key verifies does.
"""

import base64
import binascii
from collections.abc import Iterable
from typing import Annotated, Final, Protocol, TypeVar

import msgspec

from wasmdrop.protocol import strict_json
from wasmdrop.protocol.errors import MalformedError, RefusedError
from wasmdrop.protocol.text import describe_value, one_line

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"

#: Largest envelope to read.
MAX_ENVELOPE_BYTES: Final = 1024 * 1024

#: Signatures of one envelope. Each is tried with each trusted key.
MAX_SIGNATURES: Final = 64

#: Printable ASCII, because commands print envelopes on terminals.
_KEY_ID: Final = r"^[ -~]{0,256}$(?!\n)"
_MAX_SIGNATURE_BYTES: Final = 1024


class Signer(Protocol):
    """A private key."""

    @property
    def key_id(self) -> str:
        """SHA-256 of its public key (DER, SubjectPublicKeyInfo), in hex."""

    def sign(self, data: bytes) -> bytes:
        """Return the signature of ``data``, the same at each call."""


class Verifier(Protocol):
    """A public key."""

    @property
    def key_id(self) -> str:
        """SHA-256 of it (DER, SubjectPublicKeyInfo), in hex."""

    def verifies(self, data: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is one of ``data`` by this key."""


_Key = TypeVar("_Key", bound=Verifier)


class Signature(msgspec.Struct, frozen=True, order=True):
    """One signature. ``key_id`` is a hint that is not signed, so it proves nothing."""

    key_id: str
    value: bytes


class Envelope(msgspec.Struct, frozen=True):
    """A payload of type `PAYLOAD_TYPE` and its signatures, none of which is verified."""

    payload: bytes
    signatures: tuple[Signature, ...]


class _EncodedSignature(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    keyid: Annotated[str, msgspec.Meta(pattern=_KEY_ID)] = ""
    sig: str


class _EncodedEnvelope(msgspec.Struct, frozen=True, rename="camel"):
    """Keys that DSSE does not define are ignored, as it says."""

    payload_type: str
    payload: str
    signatures: tuple[_EncodedSignature, ...]


def pae(payload: bytes) -> bytes:
    """Return the bytes that are signed: the pre-authentication encoding of ``payload``."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def sign_payload(payload: bytes, signer: Signer) -> Envelope:
    """Return an envelope with one signature of ``payload``."""
    return Envelope(payload, (Signature(signer.key_id, signer.sign(pae(payload))),))


def signed_by(envelope: Envelope, keys: Iterable[_Key]) -> tuple[_Key, ...]:
    """Return those of ``keys``, each of them once, that made a signature of the payload.

    Key ids are not looked at.
    """
    data = pae(envelope.payload)
    different = {key.key_id: key for key in keys}
    return tuple(
        key
        for key in different.values()
        if any(key.verifies(data, signature.value) for signature in envelope.signatures)
    )


def encode_envelope(envelope: Envelope) -> bytes:
    """Return the content of a receipt: one line of compact JSON."""
    encoded = _EncodedEnvelope(
        PAYLOAD_TYPE,
        base64.b64encode(envelope.payload).decode(),
        tuple(
            _EncodedSignature(keyid=each.key_id, sig=base64.b64encode(each.value).decode())
            for each in envelope.signatures
        ),
    )
    return _encoder.encode(encoded) + b"\n"


def parse_envelope(data: bytes) -> Envelope:
    """Parse a receipt strictly.

    Raises ``MalformedError`` if it is larger than `MAX_ENVELOPE_BYTES`, is no envelope, repeats a
    key, is of another payload type, or has no signature or more than `MAX_SIGNATURES`. The payload
    is not parsed, and no signature is verified.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise MalformedError(f"envelope: larger than {MAX_ENVELOPE_BYTES} bytes")
    try:
        encoded = msgspec.convert(strict_json.parse(data), _EncodedEnvelope, strict=True)
    except RefusedError as refusal:
        raise MalformedError(f"envelope: {refusal.message}") from None
    except msgspec.ValidationError as error:
        raise MalformedError(f"envelope: {one_line(str(error), 300)}") from None
    if encoded.payload_type != PAYLOAD_TYPE:
        given = describe_value(encoded.payload_type)
        raise MalformedError(f'envelope: $.payloadType: expected "{PAYLOAD_TYPE}", got {given}')
    if not 0 < len(encoded.signatures) <= MAX_SIGNATURES:
        count = len(encoded.signatures)
        raise MalformedError(f"envelope: $.signatures: expected 1 to {MAX_SIGNATURES}, got {count}")
    return Envelope(
        _decoded(encoded.payload, "$.payload"),
        tuple(
            Signature(each.keyid, _decoded_signature(each.sig, f"$.signatures[{index}].sig"))
            for index, each in enumerate(encoded.signatures)
        ),
    )


def merge_envelopes(envelopes: Iterable[Envelope]) -> Envelope:
    """Return one envelope with the signatures of all, sorted, each once.

    Two signatures with the same key id are both kept, because either may be forged. Raises
    ``MalformedError`` if the payloads differ or there are more than `MAX_SIGNATURES` signatures.
    """
    first, *others = envelopes
    for other in others:
        if other.payload != first.payload:
            raise MalformedError("states something other than the first receipt")
    signatures = sorted({each for one in (first, *others) for each in one.signatures})
    if len(signatures) > MAX_SIGNATURES:
        raise MalformedError(f"more than {MAX_SIGNATURES} signatures")
    return Envelope(first.payload, tuple(signatures))


def _decoded_signature(text: str, where: str) -> bytes:
    value = _decoded(text, where)
    if not 0 < len(value) <= _MAX_SIGNATURE_BYTES:
        raise MalformedError(
            f"envelope: {where}: expected 1 to {_MAX_SIGNATURE_BYTES} bytes, got {len(value)}"
        )
    return value


def _decoded(text: str, where: str) -> bytes:
    """Decode base64 as :func:`encode_envelope` writes it: each value has one encoding."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if base64.b64encode(value).decode() != text:
        raise MalformedError(f"envelope: {where}: expected base64 with its padding")
    return value


_encoder: Final = msgspec.json.Encoder()
