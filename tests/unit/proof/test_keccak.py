"""Keccak-256 gives the published digests, and its permutation is that of SHA-3."""

import hashlib

import pytest

from wasmdrop.proof.keccak import keccak_256, sponge


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
    ],
)
def test_keccak_256_of_known_data_is_the_published_digest(data: bytes, digest: str) -> None:
    """Those of the original submission, before the padding of SHA-3 was changed."""
    assert keccak_256(data).hex() == digest


@pytest.mark.parametrize("length", [0, 1, 64, 134, 135, 136, 137, 271, 272, 300])
def test_keccak_sponge_with_padding_of_sha3_equals_the_standard_library(length: int) -> None:
    """Lengths around a block of 136 bytes."""
    data = bytes(number % 251 for number in range(length))
    assert sponge(data, 0x06) == hashlib.sha3_256(data).digest()
