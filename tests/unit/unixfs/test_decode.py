"""Decoding nodes of files: what the importer encodes is read back, everything else is refused."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.raw_server import blocks_of
from wasmdrop.unixfs.cid import Cid, Codec
from wasmdrop.unixfs.dag_pb import (
    Link,
    NodeType,
    encode_file_data,
    encode_link,
    encode_node,
    varint,
)
from wasmdrop.unixfs.decode import Child, FileNode, NodeError, decode_file_node
from wasmdrop.unixfs.profiles import UNIXFS_V0_2015, UNIXFS_V1_2025

CID: Final = Cid(1, Codec.RAW, bytes(range(32)))
CID_V0: Final = Cid(0, Codec.DAG_PB, bytes(range(32)))
LINK: Final = encode_link(b"", Link(CID, 7, 7))
DATA: Final = encode_file_data([7])


def bytes_field(tag: int, content: bytes) -> bytes:
    """Return a field of bytes."""
    return bytes((tag,)) + varint(len(content)) + content


def node(data: bytes, *links: bytes) -> bytes:
    """Return a block with this UnixFS data and these encoded links."""
    return encode_node(links, data)


def unixfs(node_type: int, rest: bytes) -> bytes:
    """Return UnixFS data of a type."""
    return bytes((0x08, node_type)) + rest


def test_decode_node_of_the_importer_returns_its_children() -> None:
    """A file of three chunks in the default profile."""
    size = UNIXFS_V1_2025.chunk_bytes
    root, blocks = blocks_of(bytes(2 * size) + b"end", UNIXFS_V1_2025)
    decoded = decode_file_node(blocks[root.text])
    assert (decoded.content, decoded.size_bytes) == (b"", 2 * size + 3)
    assert [child.size_bytes for child in decoded.children] == [size, size, 3]
    assert [blocks[child.cid.text][:3] for child in decoded.children] == [bytes(3)] * 2 + [b"end"]


@pytest.mark.parametrize("content", [b"", b"content"])
def test_decode_leaf_of_version_0_returns_its_content(content: bytes) -> None:
    """A leaf that is no raw block, empty or not."""
    root, blocks = blocks_of(content, UNIXFS_V0_2015)
    assert decode_file_node(blocks[root.text]) == FileNode(content, (), len(content))


@pytest.mark.parametrize(
    "block",
    [
        node(DATA, LINK),
        bytes_field(0x0A, DATA) + LINK,  # data before links
        node(DATA, bytes_field(0x12, bytes_field(0x0A, CID.binary))),  # neither name nor size
        node(unixfs(NodeType.FILE, b"\x18\x07\x20\x07\x38\x01\x42\x00"), LINK),  # mode and time
    ],
)
def test_decode_other_forms_of_a_node_are_accepted(block: bytes) -> None:
    """Other programs write them."""
    assert decode_file_node(block).children == (Child(CID, 7),)


def test_decode_raw_node_is_a_leaf() -> None:
    """Early programs wrote leaves of this type."""
    block = node(unixfs(NodeType.RAW, b"\x12\x02hi\x18\x02"))
    assert decode_file_node(block) == FileNode(b"hi", (), 2)


def test_decode_node_with_content_and_children_counts_both() -> None:
    """The content precedes that of the children."""
    data = unixfs(NodeType.FILE, b"\x12\x02hi\x18\x09\x20\x07")
    link = encode_link(b"", Link(CID_V0, 7, 7))
    assert decode_file_node(node(data, link)) == FileNode(b"hi", (Child(CID_V0, 7),), 9)


IDENTITY: Final = bytes.fromhex("015500") + b"\x04abcd"
CUT_HASH: Final = bytes.fromhex("01551204") + b"abcd"
OTHER_CODEC: Final = b"\x01\x71" + CID.binary[2:]


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"", "has no data"),
        (LINK, "has no data"),
        (node(DATA, LINK) + bytes_field(0x0A, DATA), "has no data, several"),
        (LINK + bytes_field(0x0A, encode_file_data([7, 7])) + LINK, "between its links"),
        (node(DATA, LINK) + b"\x18\x01", "an unknown field"),
        (node(DATA, LINK)[:-1], "ends in the middle"),
        (node(DATA, LINK) + b"\x0a", "ends in the middle"),
        (b"\x0a\x05" + b"\x08\x02\x18\x00", "ends in the middle"),
        (b"\x0a\x84\x00" + b"\x08\x02\x18\x00", "shortest form"),
        (b"\x0a" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x0a" + b"\xff" * 10 + b"\x01", "more than 64 bits"),
        (node(b""), "an unknown UnixFS type"),
        (node(b"\x18\x00"), "an unknown UnixFS type"),
        (node(unixfs(6, b"\x18\x00")), "an unknown UnixFS type"),
        (node(unixfs(NodeType.DIRECTORY, b"")), "is a directory"),
        (node(unixfs(NodeType.SHARD, b"\x12\x01\xff\x28\x22\x30\x80\x02")), "is a directory"),
        (node(unixfs(NodeType.SYMLINK, b"\x12\x03a/b")), "is a symbolic link"),
        (node(unixfs(NodeType.METADATA, b"")), "is metadata"),
        (node(unixfs(NodeType.FILE, b"")), "does not declare its size"),
        (node(unixfs(NodeType.FILE, b"\x18\x00\x18\x00")), "out of order, or twice"),
        (node(unixfs(NodeType.FILE, b"\x18\x02\x12\x02hi")), "out of order, or twice"),
        (node(unixfs(NodeType.FILE, b"\x18\x00\x28\x22")), "hash or fanout of a directory"),
        (node(unixfs(NodeType.FILE, b"\x18\x00\x48\x01")), "an unknown field"),
        (node(unixfs(NodeType.FILE, b"\x18\x07\x22\x01\x07"), LINK), "an unknown field"),
        (node(unixfs(NodeType.FILE, b"\x12\x02hi\x18\x03")), "not the sum"),
        (node(unixfs(NodeType.FILE, b"\x18\x08\x20\x07"), LINK), "not the sum"),
        (node(encode_file_data([7]), LINK, LINK), "has 2 links and 1 sizes"),
        (node(encode_file_data([7, 0]), LINK, LINK), "an empty part"),
        (node(unixfs(NodeType.RAW, b"\x18\x07\x20\x07"), LINK), "is raw and has parts"),
        (node(DATA, bytes_field(0x12, b"\x12\x00\x18\x07")), "a link without a CID"),
        (node(DATA, encode_link(b"name", Link(CID, 7, 7))), "a link with a name"),
        (node(DATA, LINK[:1] + varint(LINK[1] + 2) + LINK[2:] + b"\x18\x07"), "twice"),
        (node(DATA, bytes_field(0x12, bytes_field(0x0A, IDENTITY))), "an unsupported hash"),
        (node(DATA, bytes_field(0x12, bytes_field(0x0A, CUT_HASH))), "an unsupported hash"),
        (node(DATA, bytes_field(0x12, bytes_field(0x0A, OTHER_CODEC))), "data that is no file"),
        (node(DATA, bytes_field(0x12, bytes_field(0x0A, b""))), "not a CID of version 1"),
        (
            node(DATA, bytes_field(0x12, bytes_field(0x0A, CID.binary + b"\0"))),
            "an unsupported hash",
        ),
    ],
)
def test_decode_malformed_node_is_refused(block: bytes, reason: str) -> None:
    """The message says what is wrong and quotes nothing of the block."""
    with pytest.raises(NodeError, match=reason) as caught:
        decode_file_node(block)
    assert str(caught.value).isprintable()


@given(st.binary(max_size=200))
def test_decode_any_bytes_is_a_node_or_an_error(block: bytes) -> None:
    """Only one kind of error leaves the decoder."""
    try:
        decoded = decode_file_node(block)
    except NodeError:
        return
    parts = sum(child.size_bytes for child in decoded.children)
    assert decoded.size_bytes == len(decoded.content) + parts


@given(st.data())
def test_decode_changed_node_is_a_node_or_an_error(data: st.DataObject) -> None:
    """As above, near a node: with any change of a byte."""
    block = bytearray(node(encode_file_data([7, 7]), LINK, LINK))
    at = data.draw(st.integers(0, len(block) - 1))
    block[at] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_file_node(bytes(block))
    except NodeError:
        return
    parts = sum(child.size_bytes for child in decoded.children)
    assert decoded.size_bytes == len(decoded.content) + parts
