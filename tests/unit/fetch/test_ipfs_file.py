"""The content of a file of IPFS, from verified blocks of an author who may be hostile."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import pytest

from tests.support.raw_server import blocks_of
from tests.support.unixfs_nodes import HUGE, Blocks
from wasmdrop.fetch.ipfs_file import IpfsFile
from wasmdrop.protocol.errors import FetchError
from wasmdrop.unixfs.cid import Cid, Codec
from wasmdrop.unixfs.profiles import PROFILES, Profile

LIMIT: Final = 1024 * 1024
CHUNK: Final = 16 * 1024


class Reader:
    """Reads a file, and counts the blocks that it asks for."""

    def __init__(self, blocks: Mapping[str, bytes], limit: int = LIMIT) -> None:
        self.requests = 0
        self.file = IpfsFile(self._block, limit)
        self._blocks = blocks

    def read(self, root: Cid) -> bytes:
        """Return the whole content."""
        return b"".join(self.file.read(root))

    def _block(self, cid: Cid) -> bytes:
        self.requests += 1
        return self._blocks[cid.text]


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 40 * CHUNK])
@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_ipfs_file_of_the_importer_has_its_content(profile: Profile, size: int) -> None:
    """In one block, in several, and on four levels."""
    content = hashlib.shake_256(b"content").digest(size)
    root, blocks = blocks_of(content, replace(profile, chunk_bytes=CHUNK, max_links=4))
    reader = Reader(blocks)
    assert reader.read(root) == content
    assert (reader.file.size_bytes, reader.requests) == (size, len(blocks))


def test_ipfs_file_of_the_limit_is_read_and_of_one_byte_more_refused() -> None:
    """By the size that the first block declares, or has."""
    blocks = Blocks()
    leaf = blocks.add_leaf(bytes(LIMIT))
    assert len(Reader(blocks).read(leaf[0])) == LIMIT
    assert len(Reader(blocks).read(blocks.add_file(leaf))) == LIMIT
    larger = blocks.add_leaf(bytes(LIMIT + 1))[0], blocks.add_file(leaf, blocks.add_leaf(b"x"))
    for root in larger:
        reader = Reader(blocks)
        with pytest.raises(FetchError, match=rf"{root}: declares a file of {LIMIT + 1} bytes"):
            reader.read(root)
        assert reader.requests == 1


def test_ipfs_file_of_eight_levels_is_read_and_of_nine_refused() -> None:
    """Only a hostile author makes so many."""
    blocks = Blocks()
    assert Reader(blocks).read(blocks.add_chain(7)) == b"x"
    reader = Reader(blocks)
    with pytest.raises(FetchError, match="has parts below level 8"):
        reader.read(blocks.add_chain(8))
    assert reader.requests == 8


def test_ipfs_file_of_too_many_blocks_is_refused_before_they_are_asked_for() -> None:
    """One block for each 16 KiB, and 16 more: the tree is walked no further than that."""
    blocks = Blocks()
    leaf = blocks.add_leaf(b"x")
    assert Reader(blocks).read(blocks.add_file(*[leaf] * 16)) == b"x" * 16
    reader = Reader(blocks)
    with pytest.raises(FetchError, match="17 bytes has too many blocks"):
        reader.read(blocks.add_file(*[leaf] * 17))
    assert reader.requests == 1


def test_ipfs_file_bound_of_blocks_counts_nodes_and_repetitions() -> None:
    """A tree that refers to one node many times has few blocks to store, and many to ask for."""
    blocks = Blocks()
    node = (blocks.add_file(blocks.add_leaf(b"x")), 1)
    reader = Reader(blocks)
    with pytest.raises(FetchError, match="has too many blocks"):
        reader.read(blocks.add_file(*[node] * 9))
    assert reader.requests < 20


@pytest.mark.parametrize("declared", [1, 3, HUGE])
def test_ipfs_file_part_of_another_size_than_declared_is_refused(declared: int) -> None:
    """Both a raw block and a node are compared with what the node above says."""
    blocks = Blocks()
    leaf = blocks.add_leaf(b"hi")[0]
    for child in (leaf, blocks.add_file((leaf, 2))):
        reader = Reader(blocks, limit=2 * HUGE)
        with pytest.raises(FetchError, match=f"{child}: has 2 bytes of content.* {declared}$"):
            reader.read(blocks.add_file((child, declared)))


def test_ipfs_file_that_is_no_file_is_refused() -> None:
    """The message names the block and what it is."""
    blocks = Blocks()
    directory = blocks.add(b"\x0a\x02\x08\x01")
    with pytest.raises(FetchError, match=f"block {directory}: is a directory"):
        Reader(blocks).read(directory)
    with pytest.raises(FetchError, match=f"block {directory}: is a directory"):
        Reader(blocks).read(blocks.add_file((directory, 1)))


def test_ipfs_file_block_is_decoded_by_the_codec_of_its_cid() -> None:
    """The bytes of a node are content if a CID says that they are raw."""
    blocks = Blocks()
    node = blocks[blocks.add_file().text]
    assert Reader(blocks).read(blocks.add(node, Codec.RAW)) == node
