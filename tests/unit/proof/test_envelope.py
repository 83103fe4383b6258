"""Envelopes: what is read, what is refused, and what independent readers make of them."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._key import Key, SSlibKey

from tests.support.receipts import a_payload, an_envelope, edited
from wasmdrop.proof.envelope import (
    MAX_ENVELOPE_BYTES,
    MAX_SIGNATURES,
    Envelope,
    Signature,
    encode_envelope,
    merge_envelopes,
    pae,
    parse_envelope,
    sign_payload,
    signed_by,
)
from wasmdrop.proof.keys import KeyKind, PrivateKey
from wasmdrop.protocol.errors import MalformedError

PAYLOAD = b'{"hello":"world"}'
RECEIPT = encode_envelope(an_envelope())


def test_pae_is_that_of_the_specification() -> None:
    """Lengths are in bytes."""
    assert pae("ä".encode()) == b"DSSEv1 28 application/vnd.in-toto+json 2 \xc3\xa4"


def test_envelope_survives_encoding() -> None:
    """As one line of compact JSON, with its keys in a fixed order."""
    key = PrivateKey.generate(KeyKind.ED25519)
    data = encode_envelope(sign_payload(PAYLOAD, key))
    signature = base64.b64encode(key.sign(pae(PAYLOAD))).decode()
    assert data.decode() == (
        '{"payloadType":"application/vnd.in-toto+json","payload":"eyJoZWxsbyI6IndvcmxkIn0=",'
        f'"signatures":[{{"keyid":"{key.key_id}","sig":"{signature}"}}]}}\n'
    )
    assert encode_envelope(parse_envelope(data)) == data


@pytest.mark.parametrize("kind", [KeyKind.ED25519, KeyKind.P256])
def test_envelope_is_verified_by_securesystemslib(kind: KeyKind) -> None:
    """A reader that shares no code with ours; it has no secp256k1."""
    keys = [PrivateKey.generate(kind) for _ in range(2)]
    merged = merge_envelopes([sign_payload(PAYLOAD, key) for key in keys])
    read = OtherEnvelope.from_dict(json.loads(encode_envelope(merged)))
    theirs: list[Key] = [
        SSlibKey.from_crypto(load_pem_public_key(key.public.pem().encode()), key.key_id)
        for key in keys
    ]
    assert read.payload == PAYLOAD
    assert read.verify(theirs, 2).keys() == {key.key_id for key in keys}
    forged = OtherEnvelope(PAYLOAD + b" ", read.payload_type, read.signatures)
    with pytest.raises(VerificationError):
        forged.verify(theirs, 1)


def test_signed_by_counts_each_key_once_and_ignores_key_ids() -> None:
    """A key id is a hint that is not signed."""
    first, second, absent = (PrivateKey.generate(KeyKind.P256) for _ in range(3))
    signatures = [
        Signature(absent.key_id, first.sign(pae(PAYLOAD))),
        Signature("", second.sign(pae(PAYLOAD))),
        Signature(first.key_id, first.sign(pae(PAYLOAD))),
        Signature(absent.key_id, absent.sign(pae(b"something else"))),
    ]
    keys = [key.public for key in (absent, second, first, first)]
    found = signed_by(Envelope(PAYLOAD, tuple(signatures)), keys)
    assert [key.key_id for key in found] == [second.key_id, first.key_id]


def test_signed_by_is_of_the_payload_type_too() -> None:
    """A signature of the bytes alone, as another program may have made, is none of ours."""
    key = PrivateKey.generate(KeyKind.ED25519)
    assert signed_by(Envelope(PAYLOAD, (Signature("", key.sign(PAYLOAD)),)), [key.public]) == ()


def _with_signatures(*signatures: Any) -> bytes:
    return edited(RECEIPT, signatures=list(signatures))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "line 1, column 1: the file is empty"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (b'{"payload":""}', "missing required field `payloadType`"),
        (RECEIPT[:-3], "expected"),
        (b"{" + b'"payload":"",' + RECEIPT[1:], 'duplicate key "payload"'),
        (b" " * (MAX_ENVELOPE_BYTES + 1), "larger than 1048576 bytes"),
        (b"[" * 100_000, "nested deeper than 64"),
        (b'{"payload":' + b"9" * 5000 + b"}", "an integer of more than 4300 digits"),
        (edited(RECEIPT, payloadType="text/plain"), 'payloadType: expected "application/vnd.in-to'),
        (edited(RECEIPT, payload=17), "Expected `str`, got `int` - at `$.payload`"),
        (edited(RECEIPT, payload="e30"), "$.payload: expected base64 with its padding"),
        (edited(RECEIPT, payload="e31="), "$.payload: expected base64 with its padding"),
        (edited(RECEIPT, payload="e30=\n"), "$.payload: expected base64 with its padding"),
        (edited(RECEIPT, payload="e30=e30="), "$.payload: expected base64 with its padding"),
        (edited(RECEIPT, payload="\u0435=="), "$.payload: expected base64 with its padding"),
        (_with_signatures(), "$.signatures: expected 1 to 64, got 0"),
        (_with_signatures(*[{"sig": "AA=="}] * (MAX_SIGNATURES + 1)), "expected 1 to 64, got 65"),
        (_with_signatures({"keyid": "x"}), "missing required field `sig`"),
        (_with_signatures({"sig": ""}), "$.signatures[0].sig: expected 1 to 1024 bytes, got 0"),
        (_with_signatures({"sig": "AAAA" * 400}), "expected 1 to 1024 bytes, got 1200"),
        (_with_signatures({"sig": "AA==", "keyid": "x" * 300}), "matching regex"),
        (_with_signatures({"sig": "AA==", "keyid": "\x9b2J"}), "matching regex"),
        (_with_signatures({"sig": "AA==", "keyid": "\u202ex\n"}), "matching regex"),
        (_with_signatures({"sig": "AA==", "keyid": "x\n"}), "matching regex"),
        (_with_signatures({"sig": "AA==", "keyid": None}), "Expected `str`, got `null`"),
    ],
    ids=range(26),
)
def test_envelope_that_is_malformed_is_refused(data: bytes, reason: str) -> None:
    """With the place and what was expected, in one line that is fit for a terminal."""
    with pytest.raises(MalformedError) as raised:
        parse_envelope(data)
    text = str(raised.value)
    assert text.startswith("envelope: ")
    assert reason in text
    assert text.isprintable()
    assert len(text) < 500


def test_envelope_with_unknown_keys_is_read() -> None:
    """DSSE says to ignore them; they are not signed."""
    data = edited(RECEIPT, later={"a": 1}, signatures=[{"sig": "AA==", "cert": "x"}])
    assert parse_envelope(data).signatures == (Signature("", b"\0"),)


def test_merge_has_each_signature_once_whatever_the_order() -> None:
    """Merging twice, or a part again, changes nothing."""
    first, second, third = (an_envelope(a_payload(), kind) for kind in KeyKind)
    merged = merge_envelopes([first, second, third])
    signatures = [each for one in (first, second, third) for each in one.signatures]
    assert merged.signatures == tuple(sorted(signatures, key=lambda each: each.key_id))
    assert merge_envelopes([third, first, second, first]) == merged
    assert merge_envelopes([merged, second]) == merged


def test_merge_keeps_a_second_signature_with_the_same_key_id() -> None:
    """A forged one must not displace the right one, and without keys nothing tells which it is."""
    right = an_envelope()
    forged = Envelope(right.payload, (Signature(right.signatures[0].key_id, b"forged"),))
    assert set(merge_envelopes([right, forged]).signatures) == {
        *right.signatures,
        *forged.signatures,
    }


def test_merge_of_other_payloads_or_too_many_signatures_is_refused() -> None:
    """Even if they mean the same: signatures are of bytes."""
    with pytest.raises(MalformedError, match="states something other"):
        merge_envelopes([an_envelope(a_payload()), an_envelope(a_payload() + b" ")])
    many = [Envelope(b"", (Signature("", bytes((count,))),)) for count in range(MAX_SIGNATURES + 1)]
    assert len(merge_envelopes(many[1:]).signatures) == MAX_SIGNATURES
    with pytest.raises(MalformedError, match="more than 64 signatures"):
        merge_envelopes(many)
