"""The digest and the CID of a file in one pass are those of two."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wasmdrop.unixfs.file_digest import FileDigest, cid_of, large_cid, large_cid_of
from wasmdrop.unixfs.files import FileImporter
from wasmdrop.unixfs.profiles import DEFAULT_PROFILE

BLOCK = DEFAULT_PROFILE.chunk_bytes

#: From the JavaScript importer.
EMPTY = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
ONE_BLOCK = "bafkreifekcoy7bwzl37zmifpej5mk25bfxe7iiz7odjtyda6q35bow74qq"


def content(size_bytes: int) -> bytes:
    """Return bytes that other implementations can make."""
    return hashlib.shake_256(b"x").digest(size_bytes)


def imported(data: bytes) -> str:
    """Return the CID of a file with this content."""
    importer = FileImporter()
    importer.update(data)
    return importer.finish().cid.text


@given(st.lists(st.integers(0, BLOCK + 2), max_size=4))
@settings(max_examples=60, deadline=None)
def test_digest_of_chunks_of_any_size_is_that_of_the_file(sizes: list[int]) -> None:
    """Also if the second block begins within a chunk."""
    data = content(sum(sizes))
    digest, offset = FileDigest(), 0
    for size in sizes:
        digest.update(data[offset : offset + size])
        offset += size
    assert digest.size_bytes == len(data)
    assert digest.sha256 == hashlib.sha256(data).hexdigest()
    link = digest.link()
    assert link.cid.text == imported(data)
    assert link.content_bytes == len(data)
    assert large_cid_of(link) == large_cid(data)
    assert cid_of(digest.sha256, len(data), large_cid(data)) == link.cid.text


@pytest.mark.parametrize(("size_bytes", "cid"), [(0, EMPTY), (BLOCK, ONE_BLOCK)])
def test_file_of_one_block_needs_no_stored_cid(size_bytes: int, cid: str) -> None:
    """It is the digest in another alphabet."""
    data = content(size_bytes)
    assert large_cid(data) is None
    assert cid_of(hashlib.sha256(data).hexdigest(), size_bytes, None) == cid == imported(data)


def test_cid_of_larger_file_is_the_stored_one_or_unknown() -> None:
    """Values that an earlier version stored have none."""
    data = content(BLOCK + 1)
    sha256 = hashlib.sha256(data).hexdigest()
    assert cid_of(sha256, len(data), None) is None
    assert cid_of(sha256, len(data), large_cid(data)) == imported(data)
