"""The test fixtures of IPIP-0499: sizes at which files and directories change their shape.

The inputs are bytes of a ChaCha20 stream whose key is the SHA-256 of a seed, as defined in kubo's
``test/cli/cid_profiles_test.go``.
"""

import hashlib
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from wasmdrop.unixfs.directories import directory_link
from wasmdrop.unixfs.files import FileImporter
from wasmdrop.unixfs.profiles import UNIXFS_V0_2015, UNIXFS_V1_2025, Profile

MIB = 1 << 20
GIB = 1 << 30
LETTERS = "abcdefghijklmnopqrstuvwxyz01234567890-_"


def _stream(seed: str, size: int) -> Iterator[bytes]:
    key = hashlib.sha256(seed.encode()).digest()
    cipher = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    while size > 0:
        yield cipher.update(bytes(min(size, MIB)))
        size -= MIB


def _file_cid(profile: Profile, seed: str, size: int) -> str:
    importer = FileImporter(profile)
    for part in _stream(seed, size):
        importer.update(part)
    return importer.finish().cid.text


@pytest.mark.parametrize(
    ("profile", "cid"),
    [
        (UNIXFS_V0_2015, "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"),
        (UNIXFS_V1_2025, "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"),
    ],
)
def test_cid_of_a_small_file_is_that_of_the_fixture(profile: Profile, cid: str) -> None:
    """The leaf is a node in one profile, and raw in the other."""
    importer = FileImporter(profile)
    importer.update(b"hello world")
    assert importer.finish().cid.text == cid


@pytest.mark.parametrize(
    ("profile", "seed", "size", "cid"),
    [
        (
            UNIXFS_V0_2015,
            "chunk-v0-seed",
            256 * 1024,
            "QmWmRj3dFDZdb6ABvbmKhEL6TmPbAfBZ1t5BxsEyJrcZhE",
        ),
        (
            UNIXFS_V0_2015,
            "chunk-v0-seed",
            256 * 1024 + 1,
            "QmYyLxtzZyW22zpoVAtKANLRHpDjZtNeDjQdJrcQNWoRkJ",
        ),
        (
            UNIXFS_V1_2025,
            "chunk-v1-seed",
            MIB,
            "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta",
        ),
        (
            UNIXFS_V1_2025,
            "chunk-v1-seed",
            MIB + 1,
            "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64",
        ),
        (
            UNIXFS_V0_2015,
            "v0-seed",
            174 * 256 * 1024,
            "QmUbBALi174SnogsUzLpYbD4xPiBSFANF4iztWCsHbMKh2",
        ),
        (
            UNIXFS_V0_2015,
            "v0-seed",
            174 * 256 * 1024 + 1,
            "QmV81WL765sC8DXsRhE5fJv2rwhS4icHRaf3J9Zk5FdRnW",
        ),
        pytest.param(
            UNIXFS_V1_2025,
            "v1-2025-seed",
            GIB,
            "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            UNIXFS_V1_2025,
            "v1-2025-seed",
            GIB + 1,
            "bafybeibdsi225ugbkmpbdohnxioyab6jsqrmkts3twhpvfnzp77xtzpyhe",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_cid_of_a_file_at_or_over_a_limit_is_that_of_the_fixture(
    profile: Profile, seed: str, size: int, cid: str
) -> None:
    """One chunk and one byte more; as many chunks as a node has links, and one byte more."""
    assert _file_cid(profile, seed, size) == cid


@pytest.mark.parametrize(
    ("profile", "count", "length", "last_length", "cid"),
    [
        (UNIXFS_V0_2015, 4096, 30, 30, "QmX5GtRk3TSSEHtdrykgqm4eqMEn3n2XhfkFAis5fjyZmN"),
        (UNIXFS_V0_2015, 4033, 31, 31, "QmeMiJzmhpJAUgynAcxTQYek5PPKgdv3qEvFsdV3XpVnvP"),
        (
            UNIXFS_V1_2025,
            4766,
            11,
            21,
            "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4",
        ),
        (
            UNIXFS_V1_2025,
            4766,
            11,
            22,
            "bafybeiegvuterwurhdtkikfhbxcldohmxp566vpjdofhzmnhv6o4freidu",
        ),
    ],
)
def test_cid_of_a_directory_at_or_over_the_threshold_is_that_of_the_fixture(
    profile: Profile, count: int, length: int, last_length: int, cid: str
) -> None:
    """A directory of exactly the threshold is one block; one of a byte more is sharded."""
    importer = FileImporter(profile)
    importer.update(b"x")
    file = importer.finish()
    letters = "".join(
        LETTERS[byte % len(LETTERS)]
        for part in _stream(f"hamt-{profile.name}", MIB)
        for byte in part
    )
    names = [letters[at * length : (at + 1) * length] for at in range(count - 1)]
    names.append(letters[(count - 1) * length :][:last_length])
    assert directory_link(dict.fromkeys(names, file), profile).cid.text == cid
