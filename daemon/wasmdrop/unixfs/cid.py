"""Content identifiers (CIDs) of blocks with a SHA-256 digest: values, text, parsing.

A CID of version 0 is a multihash in base58. One of version 1 is a version number, a codec and a
multihash in a base that its first letter names. The usual one is base32 in lower case
(https://github.com/multiformats/cid).
"""

import base64
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Codec(IntEnum):
    """How a block is encoded (https://github.com/multiformats/multicodec)."""

    RAW = 0x55
    """Bytes of a file."""
    DAG_PB = 0x70
    """A node of a tree: part of a file, or a directory."""


DIGEST_BYTES: Final = 32

#: The multihash of a SHA-256 digest begins with its function and its length.
_MULTIHASH_PREFIX: Final = bytes((0x12, DIGEST_BYTES))
_PREFIXES: Final = {codec: bytes((1, codec)) + _MULTIHASH_PREFIX for codec in Codec}
_RAW_PREFIX_HEX: Final = _PREFIXES[Codec.RAW].hex()
_V0_BYTES: Final = len(_MULTIHASH_PREFIX) + DIGEST_BYTES
_V1_BYTES: Final = 2 + _V0_BYTES

_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE36: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_V0_CHARACTERS: Final = 46
#: No accepted text is longer: base16 takes the most characters.
_MAX_CHARACTERS: Final = 1 + 2 * _V1_BYTES


class CidError(ValueError):
    """A text is no CID, or one that is not accepted here.

    The message does not quote the text, which may come from a stranger.
    """


@dataclass(frozen=True, slots=True)
class Cid:
    """The content identifier of a block with a SHA-256 digest."""

    version: int
    """0 or 1. Version 0 is possible only for dag-pb."""
    codec: Codec
    digest: bytes
    """SHA-256 of the block, 32 bytes."""

    @property
    def multihash(self) -> bytes:
        """The digest with its function and length, as in the binary form."""
        return _MULTIHASH_PREFIX + self.digest

    @property
    def binary(self) -> bytes:
        """The form in links between blocks."""
        if self.version == 0:
            return self.multihash
        return _PREFIXES[self.codec] + self.digest

    @property
    def text(self) -> str:
        """The usual text: base58 for version 0, base32 in lower case for version 1."""
        if self.version == 0:
            return _encode_digits(self.binary, _BASE58)
        return _base32(self.binary)

    def __str__(self) -> str:
        return self.text


def raw_cid(sha256_hex: str) -> str:
    """Return the CID text, version 1, of one raw block whose SHA-256 is ``sha256_hex``."""
    return _base32(bytes.fromhex(_RAW_PREFIX_HEX + sha256_hex))


def parse_cid(text: str) -> Cid:
    """Return the CID that ``text`` denotes: version 0, or version 1 in base16, 32, 36 or 58.

    Only the canonical spelling is accepted: lower case except for base58, no padding, no spaces.
    Raises ``CidError`` if it is another text, or a CID with another codec than raw and dag-pb, or
    with another hash than a SHA-256 of full length.
    """
    if not text.isascii() or len(text) > _MAX_CHARACTERS:
        raise CidError(f"is not a CID: expected at most {_MAX_CHARACTERS} ASCII characters")
    if len(text) == _V0_CHARACTERS and text.startswith("Qm"):
        binary = _decode_digits(text, _BASE58)
        if not _is_v0(binary):
            raise CidError("is not a CID: expected SHA-256 with all its 32 bytes")
        return parse_binary_cid(binary)
    base, digits = text[:1], text[1:]
    match base:
        case "b":
            binary = _decode_base32(digits)
        case "f":
            binary = _decode_base16(digits)
        case "k":
            binary = _decode_digits(digits, _BASE36)
        case "z":
            binary = _decode_digits(digits, _BASE58)
        case _:
            raise CidError("is not a CID: expected bafy…, bafk… or Qm…")
    return _parse_v1(binary)


def parse_binary_cid(binary: bytes) -> Cid:
    """Return the CID in a link between blocks, of version 0 or 1. Raises as ``parse_cid`` does."""
    if _is_v0(binary):
        return Cid(0, Codec.DAG_PB, binary[len(_MULTIHASH_PREFIX) :])
    return _parse_v1(binary)


def _is_v0(binary: bytes) -> bool:
    return len(binary) == _V0_BYTES and binary.startswith(_MULTIHASH_PREFIX)


def _parse_v1(binary: bytes) -> Cid:
    if binary[:1] != b"\x01":
        raise CidError("is not a CID of version 1")
    codec = next((codec for codec in Codec if binary[1:2] == bytes((codec,))), None)
    if codec is None:
        raise CidError("is a CID of data that is no file: expected the codec raw or dag-pb")
    if binary[2:4] != _MULTIHASH_PREFIX or len(binary) != _V1_BYTES:
        raise CidError("is a CID with an unsupported hash: expected SHA-256 with all its 32 bytes")
    return Cid(1, codec, binary[4:])


def _base32(binary: bytes) -> str:
    return "b" + base64.b32encode(binary).decode("ascii").rstrip("=").lower()


def _decode_base32(digits: str) -> bytes:
    padding = "=" * (-len(digits) % 8)
    try:
        binary = base64.b32decode(digits.upper() + padding)
    except ValueError:
        raise CidError("is not a CID: expected base32 after the b") from None
    # Upper case, and digits whose last bits are not zero, decode as well.
    if _base32(binary) != f"b{digits}":
        raise CidError("is not a CID: its base32 is not canonical")
    return binary


def _decode_base16(digits: str) -> bytes:
    try:
        binary = bytes.fromhex(digits)
    except ValueError:
        raise CidError("is not a CID: expected base16 after the f") from None
    if binary.hex() != digits:
        raise CidError("is not a CID: its base16 is not canonical")
    return binary


def _encode_digits(binary: bytes, alphabet: str) -> str:
    """Return the digits of a number whose first byte is not zero."""
    number, digits = int.from_bytes(binary), ""
    while number:
        number, digit = divmod(number, len(alphabet))
        digits = alphabet[digit] + digits
    return digits


def _decode_digits(digits: str, alphabet: str) -> bytes:
    number = 0
    for digit in digits:
        value = alphabet.find(digit)
        if value < 0:
            raise CidError(f"is not a CID: expected base{len(alphabet)}")
        number = number * len(alphabet) + value
    # A zero digit at the start is a zero byte, so that no two texts have the same meaning.
    zeros = len(digits) - len(digits.lstrip(alphabet[0]))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8)
