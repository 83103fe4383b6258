"""CID values: their text, and which texts are refused."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmdrop.unixfs.cid import Cid, CidError, Codec, parse_cid, raw_cid

#: The file with the one byte ``a``, in each spelling, from the reference implementations.
V0 = "QmfDmsHTywy6L9Ne5RXsj5YumDedfBLMvCvmaxjBoe6w4d"
V1_RAW = "bafkreigks6arfsq3xxfpvqrrwonchxcnu6do76auprhhfomao6c273sixm"
DIGEST = hashlib.sha256(b"a").digest()

cids = st.one_of(
    st.builds(Cid, st.just(0), st.just(Codec.DAG_PB), st.binary(min_size=32, max_size=32)),
    st.builds(Cid, st.just(1), st.sampled_from(Codec), st.binary(min_size=32, max_size=32)),
)


@given(cids)
def test_cid_text_parsed_gives_the_same_cid(cid: Cid) -> None:
    """Nothing is lost in either direction."""
    assert parse_cid(cid.text) == cid


@given(st.binary(min_size=32, max_size=32))
def test_raw_cid_of_a_digest_is_that_of_the_value(digest: bytes) -> None:
    """The short way for jobs and the general one agree."""
    assert raw_cid(digest.hex()) == Cid(1, Codec.RAW, digest).text


def test_cid_of_known_blocks_has_the_text_of_other_implementations() -> None:
    """Both versions, as ``ipfs add`` prints them."""
    assert raw_cid(DIGEST.hex()) == V1_RAW
    assert parse_cid(V1_RAW) == Cid(1, Codec.RAW, DIGEST)
    assert parse_cid(V0).text == V0
    assert parse_cid(V0).codec is Codec.DAG_PB


def _base32(binary: bytes) -> str:
    return "b" + base64.b32encode(binary).decode().rstrip("=").lower()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected bafy"),
        ("result.txt", "expected bafy"),
        ("é" * 59, "ASCII"),
        ("b" + "a" * 100_000, "at most"),
        (V1_RAW.upper(), "expected bafy"),
        ("b" + V1_RAW[1:].upper(), "not canonical"),
        (V1_RAW + "=", "base32"),
        (V1_RAW[:-1] + "n", "not canonical"),
        (V1_RAW + " ", "base32"),
        (V1_RAW[:-2], "32 bytes"),
        ("b", "not a CID of version 1"),
        (V0[:-1] + "0", "base58"),
        (V0[:-1], "expected bafy"),
        ("Qm" + "1" * 44, "expected SHA-256"),
        ("bafkqaaa", "expected SHA-256"),
        (_base32(bytes((1, 0x55, 0x12, 4)) + DIGEST[:4]), "expected SHA-256"),
        (_base32(bytes((1, 0x55, 0x12, 31)) + DIGEST), "expected SHA-256"),
        (_base32(bytes((1, 0x55, 0x13, 32)) + DIGEST), "expected SHA-256"),
        (_base32(bytes((1, 0x71, 0x12, 32)) + DIGEST), "raw or dag-pb"),
        (_base32(bytes((2, 0x55, 0x12, 32)) + DIGEST), "version 1"),
        ("k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8", "no file"),
    ],
)
def test_cid_text_that_is_not_acceptable_is_refused_with_the_reason(
    text: str, message: str
) -> None:
    """Only canonical CIDs of files and directories with a full SHA-256 are taken."""
    with pytest.raises(CidError, match=message):
        parse_cid(text)


@given(cids.filter(lambda cid: cid.version == 1))
def test_cid_in_base16_base36_and_base58_is_the_same_cid(cid: Cid) -> None:
    """Gateways that are subdomains use base36, programs base16."""
    number = int.from_bytes(cid.binary)
    for letter, alphabet in (
        ("f", "0123456789abcdef"),
        ("k", "0123456789abcdefghijklmnopqrstuvwxyz"),
        ("z", "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"),
    ):
        digits, rest = "", number
        while rest:
            rest, digit = divmod(rest, len(alphabet))
            digits = alphabet[digit] + digits
        padding = "0" if letter == "f" else ""
        assert parse_cid(letter + padding + digits) == cid
        for other in (f"{letter}{alphabet[0] * 2}{digits}", f"{letter} {digits}"):
            with pytest.raises(CidError):
                parse_cid(other)


def test_cid_in_base16_of_upper_case_is_refused() -> None:
    """Each CID has one text in each base."""
    digits = Cid(1, Codec.RAW, DIGEST).binary.hex()
    assert parse_cid(f"f{digits}").digest == DIGEST
    with pytest.raises(CidError, match="not canonical"):
        parse_cid(f"f{digits.upper()}")
