"""CIDs of directories: those of the JavaScript importer, and what holds for any tree."""

import dataclasses
import hashlib
import random
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmdrop.unixfs.dag_pb import Link
from wasmdrop.unixfs.directories import directory_link, tree_link
from wasmdrop.unixfs.files import FileImporter
from wasmdrop.unixfs.murmur3 import murmur3_x64_64
from wasmdrop.unixfs.profiles import CIDV1, UNIXFS_V0_2015, UNIXFS_V1_2025, Profile
from wasmdrop.unixfs.shards import NameCollisionError


def _bytes(seed: bytes, size: int) -> bytes:
    return hashlib.shake_256(seed).digest(size)


def _link(data: bytes, profile: Profile = UNIXFS_V1_2025) -> Link:
    importer = FileImporter(profile)
    importer.update(data)
    return importer.finish()


THREE = {"README.md": b"hello world", "café.bin": _bytes(b"x", 256 * 1024 + 1), "z": b""}
NESTED = {
    "top.txt": b"top",
    "sub/b.txt": b"b",
    "sub/deep/a": _bytes(b"x", 1024 * 1024 + 1),
    "sub/漢.txt": b"han",
}
SHARDED = {f"file-{number:04}.txt": str(number).encode() for number in range(6000)}

Expected: TypeAlias = dict[Profile, tuple[str, int]]

#: Trees, with the CID and ``Tsize`` that ipfs-unixfs-importer 17.1.1 gives to each.
JAVASCRIPT: dict[str, tuple[dict[str, bytes], tuple[str, ...], Expected]] = {
    "three-files": (
        THREE,
        (),
        {
            UNIXFS_V0_2015: ("QmY5T289Jcgy6KRQB5bvvaUW1AjWu9grHBRM61zW9MGhnF", 262443),
            CIDV1: ("bafybeibseboln2b6uaswkklayvkofgv2tinsea5iti3tv4keu73yoiwte4", 262417),
            UNIXFS_V1_2025: ("bafybeig2a2sbnjnsau3srjzxhbzji4sj3gawrtdt2mynykf3k7ecqyh2m4", 262313),
        },
    ),
    "nested": (
        NESTED,
        ("empty", "sub/deep/none"),
        {
            UNIXFS_V0_2015: ("Qma45hVMqkVovFkHHfGVtA6t2RmPfoezjLRopNiy56BTi7", 1049314),
            CIDV1: ("bafybeidetmg6mostklzm4bdlwwk4ewnfv6tcprmn55gvkjyscmdjwvmaem", 1049252),
            UNIXFS_V1_2025: (
                "bafybeieyicagasw4z6762d7dxq5culu75wekuacnq2bdxefbrixna7yafu",
                1049102,
            ),
        },
    ),
    "sharded": (
        SHARDED,
        (),
        {
            UNIXFS_V0_2015: ("QmWMEDX5HF1CFg7GpYWfnca8USBp3w3RFtieQiunBH5SKQ", 453816),
            CIDV1: ("bafybeigxkfkgndsoakfhhtkcuogi5de5qwaujtzmwme6o5uiz3w6qa33nu", 418808),
            UNIXFS_V1_2025: ("bafybeigxkfkgndsoakfhhtkcuogi5de5qwaujtzmwme6o5uiz3w6qa33nu", 418808),
        },
    ),
    "only-an-empty-directory": (
        {},
        ("x",),
        {
            UNIXFS_V0_2015: ("QmV3SwRtyMFuN1vn37g76HvFtapDePF7cPA6TMgAKKdiXe", 51),
            CIDV1: ("bafybeiewevgvmrst6f4uurwumtgzbixz56hpungwxwr4z3nknj3xduinii", 53),
            UNIXFS_V1_2025: ("bafybeiewevgvmrst6f4uurwumtgzbixz56hpungwxwr4z3nknj3xduinii", 53),
        },
    ),
}


@pytest.mark.parametrize("name", JAVASCRIPT)
def test_cid_of_a_tree_is_that_of_the_javascript_importer(name: str) -> None:
    """In each profile, with the size that other nodes note of it."""
    files, directories, expected = JAVASCRIPT[name]
    for profile, (cid, dag_bytes) in expected.items():
        links = {path: _link(data, profile) for path, data in files.items()}
        link = tree_link(links, directories, profile)
        assert (link.cid.text, link.dag_bytes) == (cid, dag_bytes)


def test_cid_of_an_empty_directory_is_the_well_known_one() -> None:
    """UnixFS's own test vectors name it."""
    assert tree_link({}).cid.text == "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
    assert (
        directory_link({}, UNIXFS_V0_2015).cid.text
        == "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
    )


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1)


@given(st.dictionaries(names, st.binary(max_size=8).map(_link), max_size=8), st.randoms())
def test_cid_of_a_directory_does_not_depend_on_the_order_of_names(
    entries: dict[str, Link], dice: random.Random
) -> None:
    """A directory on a disk lists its names in any order."""
    shuffled = list(entries.items())
    dice.shuffle(shuffled)
    assert directory_link(dict(shuffled)) == directory_link(entries)


paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)


@given(st.sets(paths), st.data())
def test_cid_of_a_tree_is_that_of_its_directories_one_by_one(
    some: set[str], data: st.DataObject
) -> None:
    """Parents may be named or not, in any order."""
    file = _link(b"content")
    parents = {path[:at] for path in some for at in range(len(path)) if path[at] == "/"}
    files = dict.fromkeys(data.draw(st.permutations(sorted(some - parents))), file)
    named = data.draw(st.lists(st.sampled_from(sorted(parents)))) if parents else []

    def by_hand(prefix: str) -> Link:
        below = {
            path.removeprefix(prefix).partition("/")[0] for path in files if path.startswith(prefix)
        }
        return directory_link(
            {name: files.get(prefix + name) or by_hand(f"{prefix}{name}/") for name in below}
        )

    assert tree_link(files, named) == by_hand("")


def test_cid_of_a_name_that_is_not_utf8_is_that_of_its_bytes() -> None:
    """Names are bytes on a disk and in a directory's node."""
    name = b"\xff".decode("utf-8", "surrogateescape")
    other = b"\xfe".decode("utf-8", "surrogateescape")
    assert directory_link({name: _link(b"")}) != directory_link({other: _link(b"")})


@pytest.mark.parametrize(
    ("data", "hashed"),
    [
        (b"", 0),
        (b"hello", 0xCBD8A7B341BD9B02),
        (b"hello, world", 0x342FAC623A5EBC8E),
        (b"The quick brown fox jumps over the lazy dog.", 0xCD99481F9EE902C9),
    ],
)
def test_murmur3_of_known_text_is_the_published_one(data: bytes, hashed: int) -> None:
    """Values of other implementations of MurmurHash3, x64, 128 bits."""
    assert murmur3_x64_64(data) == hashed


def _rotate_right(value: int, bits: int) -> int:
    return (value >> bits | value << 64 - bits) % 2**64


def _block_after(state: tuple[int, int], target: tuple[int, int]) -> bytes:
    """Return the 16 bytes that lead the hash from one state to another: each step is invertible."""
    five, c1, c2 = (
        pow(factor, -1, 2**64) for factor in (5, 0x87C37B91114253D5, 0x4CF5AD432745937F)
    )
    mixed = _rotate_right(((target[0] - 0x52DCE729) * five - state[1]) % 2**64, 27) ^ state[0]
    low = _rotate_right(mixed * c2 % 2**64, 31) * c1 % 2**64
    mixed = _rotate_right(((target[1] - 0x38495AB5) * five - target[0]) % 2**64, 31) ^ state[1]
    high = _rotate_right(mixed * c1 % 2**64, 33) * c2 % 2**64
    return low.to_bytes(8, "little") + high.to_bytes(8, "little")


def test_sharded_directory_with_names_of_one_hash_is_refused() -> None:
    """Such names are easily made: each is two blocks that lead to the same state."""
    states = ((1, 2), (3, 4)), ((5, 6), (3, 4))
    made = [_block_after((0, 0), first) + _block_after(first, last) for first, last in states]
    assert murmur3_x64_64(made[0]) == murmur3_x64_64(made[1])
    entries = {name.decode("utf-8", "surrogateescape"): _link(b"") for name in made}
    assert len(entries) == 2
    directory_link(entries)
    always = dataclasses.replace(UNIXFS_V1_2025, shard_above_bytes=0)
    with pytest.raises(NameCollisionError, match="same hash"):
        directory_link(entries, always)
