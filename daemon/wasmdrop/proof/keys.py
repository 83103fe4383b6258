"""Keys that sign and verify receipts: ed25519, P-256 and secp256k1, in PEM files.

Private keys are PKCS#8 without a password, public keys SubjectPublicKeyInfo. ECDSA signs the
SHA-256 of the data with a nonce that follows from key and data (RFC 6979), so that the same
statement has the same signature after a crash, and always with the lower of the two possible s, as
contracts expect. Verification takes either s, because other signers use both: signatures are
counted by key, so the second form of one gains nothing.

Imports cryptography, which is the extra ``wasmdrop[receipts]``.
"""

import hashlib
import re
from enum import StrEnum
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from wasmdrop.proof.keccak import keccak_256
from wasmdrop.protocol.errors import MalformedError
from wasmdrop.protocol.text import describe_value

#: Largest key file to read, in bytes.
MAX_KEY_FILE_BYTES: Final = 64 * 1024

_Private: TypeAlias = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
_Public: TypeAlias = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

_SIGNED: Final = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
_VERIFIED: Final = ec.ECDSA(hashes.SHA256())

#: Bounded, so that a file of many beginnings without an end is read in linear time.
_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----.{0,8192}?-----END \1-----", re.DOTALL)
_PRIVATE_LABEL: Final = b"PRIVATE KEY"
_PUBLIC_LABEL: Final = b"PUBLIC KEY"
#: openssl ecparam writes such a block before a key.
_PARAMETERS_LABEL: Final = b"EC PARAMETERS"


class KeyKind(StrEnum):
    """The algorithms."""

    ED25519 = "ed25519"
    P256 = "p256"
    SECP256K1 = "secp256k1"


_CURVES: Final[dict[KeyKind, ec.EllipticCurve]] = {
    KeyKind.P256: ec.SECP256R1(),
    KeyKind.SECP256K1: ec.SECP256K1(),
}

#: Orders of the curves' groups (SEC 2, sections 2.4.1 and 2.4.2).
_ORDERS: Final = {
    KeyKind.P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    KeyKind.SECP256K1: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
}


class PublicKey:
    """A public key."""

    def __init__(self, key: _Public) -> None:
        kind = _kind_of(key)
        if kind is None:
            raise MalformedError(_WRONG_KIND)
        self._key = key
        self.kind: Final = kind
        der = key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.key_id: Final = hashlib.sha256(der).hexdigest()
        """SHA-256 of the key (DER, SubjectPublicKeyInfo), in hex."""

    def verifies(self, data: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is one of ``data`` by this key."""
        try:
            if isinstance(self._key, ec.EllipticCurvePublicKey):
                self._key.verify(signature, data, _VERIFIED)
            else:
                self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def pem(self) -> str:
        """Return the key as a PEM file."""
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()

    def address(self) -> str | None:
        """Return the Ethereum address of a secp256k1 key with its checksum (EIP-55)."""
        if self.kind is not KeyKind.SECP256K1:
            return None
        point = self._key.public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        digits = keccak_256(point[1:])[-20:].hex()
        mask = keccak_256(digits.encode()).hex()
        return "0x" + "".join(
            digit.upper() if bits > "7" else digit
            for digit, bits in zip(digits, mask, strict=False)
        )


class PrivateKey:
    """A private key. Nothing but :meth:`sign` and :meth:`pem` gives out anything of it."""

    def __init__(self, key: _Private) -> None:
        self._key = key
        self.public: Final = PublicKey(key.public_key())

    @classmethod
    def generate(cls, kind: KeyKind) -> "PrivateKey":
        """Return a new random key."""
        if kind is KeyKind.ED25519:
            return cls(ed25519.Ed25519PrivateKey.generate())
        return cls(ec.generate_private_key(_CURVES[kind]))

    @classmethod
    def from_pem(cls, pem: bytes) -> "PrivateKey":
        """Return the only key of a PEM file.

        Raises ``MalformedError`` if it is no PKCS#8, encrypted, or of another kind. The text is a
        clause, such as "it is encrypted", that has no part of the file but the label of its block.
        """
        blocks = [each for each in _blocks(pem) if each[0] != _PARAMETERS_LABEL]
        if len(blocks) != 1:
            raise MalformedError(f"it has {len(blocks)} PEM blocks, not one")
        label, block = blocks[0]
        if label != _PRIVATE_LABEL:
            raise MalformedError(_wrong_label(label))
        try:
            key = serialization.load_pem_private_key(block, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise MalformedError("the private key in it can't be decoded") from None
        if not isinstance(key, _Private):
            raise MalformedError(_WRONG_KIND)
        return cls(key)

    @property
    def kind(self) -> KeyKind:
        """The algorithm."""
        return self.public.kind

    @property
    def key_id(self) -> str:
        """The id of the public key."""
        return self.public.key_id

    def sign(self, data: bytes) -> bytes:
        """Return the signature of ``data``, the same at each call; of ECDSA in DER, with low s."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(data)
        r, s = decode_dss_signature(self._key.sign(data, _SIGNED))
        return encode_dss_signature(r, min(s, _ORDERS[self.public.kind] - s))

    def pem(self) -> bytes:
        """Return the key as a PEM file, PKCS#8 without a password."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def load_public_keys(pem: bytes) -> tuple[PublicKey, ...]:
    """Load all keys of a PEM file, each once, in their order.

    Text between them is ignored. Raises ``MalformedError`` if there is none, or if one is no
    SubjectPublicKeyInfo or of another type.
    """
    keys: dict[str, PublicKey] = {}
    for number, (label, block) in enumerate(_blocks(pem), start=1):
        where = f"PEM block {number}"
        if label != _PUBLIC_LABEL:
            given = describe_value(label.decode())
            advice = "; `wasmdrop key show` prints the public key" if b"PRIVATE" in label else ""
            raise MalformedError(f'{where}: expected "PUBLIC KEY", got {given}{advice}')
        try:
            key = serialization.load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm):
            raise MalformedError(f"{where}: the public key can't be decoded") from None
        if not isinstance(key, _Public) or _kind_of(key) is None:
            raise MalformedError(f"{where}: {_WRONG_KIND}")
        public = PublicKey(key)
        keys.setdefault(public.key_id, public)
    if not keys:
        raise MalformedError("expected public keys in PEM, found none")
    return tuple(keys.values())


def holds_private_key(pem: bytes) -> bool:
    """Whether a PEM file has a private key of any form."""
    return any(label.endswith(_PRIVATE_LABEL) for label, _ in _blocks(pem))


_WRONG_KIND: Final = f"it is a key of another kind than {', '.join(KeyKind)}"


def _kind_of(key: _Public) -> KeyKind | None:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return KeyKind.ED25519
    return next((kind for kind, curve in _CURVES.items() if curve.name == key.curve.name), None)


def _blocks(pem: bytes) -> list[tuple[bytes, bytes]]:
    """Return the PEM blocks of a file with their labels (RFC 7468)."""
    if len(pem) > MAX_KEY_FILE_BYTES:
        raise MalformedError(f"larger than {MAX_KEY_FILE_BYTES} bytes, which no key file is")
    return [(found[1], found[0]) for found in _PEM.finditer(pem)]


def _wrong_label(label: bytes) -> str:
    if label == b"ENCRYPTED PRIVATE KEY":
        return "it is encrypted; decrypt it with openssl pkcs8 -topk8 -nocrypt"
    if label == _PUBLIC_LABEL:
        return "it is a public key"
    given = describe_value(label.decode())
    convert = "; convert it with openssl pkcs8 -topk8 -nocrypt" if b"PRIVATE" in label else ""
    return f'expected a PEM block "PRIVATE KEY" (PKCS#8), got {given}{convert}'
