"""CIDs of files: those of the JavaScript importer, and what holds for any content."""

import dataclasses
import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmdrop.unixfs.cid import Cid, Codec
from wasmdrop.unixfs.files import FileImporter, raw_link
from wasmdrop.unixfs.profiles import (
    CIDV1,
    PROFILES,
    UNIXFS_V0_2015,
    UNIXFS_V1_2025,
    Profile,
)

KIB = 1024


def _bytes(seed: bytes, size: int) -> bytes:
    return hashlib.shake_256(seed).digest(size)


#: Contents, with the CID and ``Tsize`` that ipfs-unixfs-importer 17.1.1 gives to each, in the
#: order of ``ALL``.
ALL = (UNIXFS_V0_2015, CIDV1, UNIXFS_V1_2025)
JAVASCRIPT = [
    (
        (b"x", 0),
        (
            ("QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH", 6),
            ("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", 0),
            ("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", 0),
        ),
    ),
    (
        (b"x", 256 * KIB),
        (
            ("Qme8NEmy6nAS8Fk1WEBnRefTQbJmDRRcStFRFRv2MAyjQT", 262158),
            ("bafkreifypd46ynxmcmstgihve2xtt25ztflpwotqieuq36gvrwu6xqxqgu", 262144),
            ("bafkreifypd46ynxmcmstgihve2xtt25ztflpwotqieuq36gvrwu6xqxqgu", 262144),
        ),
    ),
    (
        (b"x", 256 * KIB + 1),
        (
            ("QmcbJ7uswt3Lhswfg8RdtxSTojUsoxQ2LoBoagZb4HjWP3", 262267),
            ("bafybeif66jgfjzgy3eszqcnrw6xmggr527ujososkvxfcvmblmaljzlsrq", 262249),
            ("bafkreicg347gv6zsyw5zgp5prl5aqhf5isxdllw7snpxkea4jjikg6nwxq", 262145),
        ),
    ),
    (
        (b"x", 1024 * KIB),
        (
            ("QmWKfCAGGiqriqB8xoM3TrDnHUX4TaorBnGS1vcjHC1iik", 1048832),
            ("bafybeicwqakvgymbuesqzsnfizcym5ma6zi6mdvdidh46v7laorndbvw7e", 1048784),
            ("bafkreifekcoy7bwzl37zmifpej5mk25bfxe7iiz7odjtyda6q35bow74qq", 1048576),
        ),
    ),
    (
        (b"x", 1024 * KIB + 1),
        (
            ("QmWj5aQPViKBedSb4weXiAk7xmucby96P9TkXL19JCWM8Y", 1048885),
            ("bafybeihgex2mgkbradl3ydovgqhd347ba66iaco4q4cw7dyw24g4p6zgou", 1048831),
            ("bafybeih5drhvps34dojhqjrtkr2esjwu25lxqjvyeic5rrajtwuhja6gbq", 1048681),
        ),
    ),
    (
        (b"50", 50_000_000),
        (
            ("QmVFadaV9CTDFnyPJB15X9F8aKQMwyENxRpzCBownbVnY5", 50011970),
            ("bafybeib4vtssaeqheinebcjhx6eo5g2ggiti55cphh4st3kter3aj73sni", 50009682),
            ("bafybeic75bntdfgurg2fd4tndhk62htkbxfgw7lcx7siqy34hxlvl2ibra", 50002410),
        ),
    ),
]

#: Profiles whose trees have several levels already for some hundred bytes.
small_profiles = st.builds(
    lambda profile, chunk, links: dataclasses.replace(profile, chunk_bytes=chunk, max_links=links),
    st.sampled_from(list(PROFILES.values())),
    st.integers(1, 16),
    st.integers(2, 5),
)


@pytest.mark.parametrize(("content", "expected"), JAVASCRIPT)
def test_cid_of_a_file_is_that_of_the_javascript_importer(
    content: tuple[bytes, int], expected: tuple[tuple[str, int], ...]
) -> None:
    """In each profile, with the size that other nodes note of it."""
    data = _bytes(*content)
    for profile, (cid, dag_bytes) in zip(ALL, expected, strict=True):
        importer = FileImporter(profile)
        importer.update(data)
        link = importer.finish()
        assert (link.cid.text, link.content_bytes, link.dag_bytes) == (cid, len(data), dag_bytes)


def test_cid_of_a_one_byte_file_is_that_of_the_javascript_importer() -> None:
    """The smallest file with content."""
    found = []
    for profile in ALL:
        importer = FileImporter(profile)
        importer.update(b"a")
        found.append(importer.finish().cid.text)
    assert found == [
        "QmfDmsHTywy6L9Ne5RXsj5YumDedfBLMvCvmaxjBoe6w4d",
        "bafkreigks6arfsq3xxfpvqrrwonchxcnu6do76auprhhfomao6c273sixm",
        "bafkreigks6arfsq3xxfpvqrrwonchxcnu6do76auprhhfomao6c273sixm",
    ]


@pytest.mark.parametrize(
    ("profile", "at_most", "over"),
    [
        (
            UNIXFS_V0_2015,
            "QmUFddtGgYoNVtp1NL8K1eMSM5KKCfd5H3nCBZTfsXbBrf",
            "QmdXKVFmMKY7fLj9w6gtp5r4VLM85DK9xuiinmHTLd6tyz",
        ),
        (
            CIDV1,
            "bafybeih4asfcihh3wzi6jqcx34zkt4o6ztiuzvlalsfnm76i7pj6jehiju",
            "bafybeig25pgmgzsawc6oxk57lwx5w7uzo26fne7ur6lpei3cutpqy5agfu",
        ),
        (
            UNIXFS_V1_2025,
            "bafybeihjcuifwk3fnjnfy4snabpevxsm5xulmpqgbruo6genxgmm2llk7y",
            "bafybeiaa37o2mbgp5v5ibkyuqei2ycmbmxo6f5jaegacbglkvk32mkju6i",
        ),
    ],
)
def test_cid_of_a_file_at_or_over_the_limit_of_links_is_that_of_the_javascript_importer(
    profile: Profile, at_most: str, over: str
) -> None:
    """With chunks of one byte: files of that many real chunks are large."""
    small = dataclasses.replace(profile, chunk_bytes=1)
    for size, cid in ((profile.max_links, at_most), (profile.max_links + 1, over)):
        importer = FileImporter(small)
        importer.update(b"a" * size)
        assert importer.finish().cid.text == cid


@given(small_profiles, st.binary(max_size=600), st.lists(st.integers(0, 600), max_size=8))
def test_cid_of_a_file_is_the_same_however_it_is_fed(
    profile: Profile, data: bytes, cuts: list[int]
) -> None:
    """Reads may end anywhere in a chunk, and may return nothing."""
    whole, parts = FileImporter(profile), FileImporter(profile)
    whole.update(data)
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        parts.update(bytearray(data[start:end]))
    assert parts.finish() == whole.finish()


@given(small_profiles, st.binary(max_size=600))
def test_blocks_of_a_file_have_their_cids_and_sizes(profile: Profile, data: bytes) -> None:
    """Each block is what its CID names, and the root's link has the size of all together."""
    blocks: list[tuple[Cid, bytes]] = []
    importer = FileImporter(profile, lambda cid, block: blocks.append((cid, block)))
    importer.update(data)
    link = importer.finish()
    for cid, block in blocks:
        assert cid.digest == hashlib.sha256(block).digest()
    assert blocks[-1][0] == link.cid
    assert link.dag_bytes == sum(len(block) for _, block in blocks)
    if profile.raw_leaves:
        assert b"".join(block for cid, block in blocks if cid.codec is Codec.RAW) == data
    silent = FileImporter(profile)
    silent.update(data)
    assert silent.finish() == link


@given(st.binary(max_size=300))
def test_raw_link_is_that_of_the_importer(data: bytes) -> None:
    """A small file needs only its digest."""
    importer = FileImporter()
    importer.update(data)
    assert raw_link(hashlib.sha256(data).hexdigest(), len(data)) == importer.finish()


@pytest.mark.parametrize(
    ("profile", "size"),
    [(UNIXFS_V1_2025, 1024 * KIB + 1), (CIDV1, 256 * KIB + 1), (UNIXFS_V0_2015, 1)],
)
def test_raw_link_of_a_file_that_is_not_one_raw_block_is_refused(
    profile: Profile, size: int
) -> None:
    """A digest of the whole file does not give such a CID."""
    with pytest.raises(ValueError, match="not one raw block"):
        raw_link("00" * 32, size, profile)
