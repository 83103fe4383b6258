"""Nodes of UnixFS: their protobuf messages, and the links by which other nodes refer to them.

A node is a ``PBNode`` of dag-pb: links, then data. The data is a ``Data`` message of UnixFS
(https://specs.ipfs.tech/unixfs/).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from wasmdrop.unixfs.cid import Cid, Codec


class NodeType(IntEnum):
    """The type of a UnixFS node."""

    RAW = 0
    DIRECTORY = 1
    FILE = 2
    METADATA = 3
    SYMLINK = 4
    SHARD = 5


#: murmur3-x64-64, the hash of names in sharded directories, in the table of multicodecs.
_MURMUR3: Final = 0x22
_VARINT_MORE: Final = 0x80


@dataclass(frozen=True, slots=True)
class Link:
    """A reference to the root of a file or directory."""

    cid: Cid
    content_bytes: int
    """Size of the file; 0 of a directory."""
    dag_bytes: int
    """Size of all blocks below it and of its own, counted at each reference (``Tsize``)."""


def varint(number: int) -> bytes:
    """Return ``number`` in seven bits a byte, the lowest first, as in protobuf."""
    encoded = bytearray()
    while number >= _VARINT_MORE:
        encoded.append(number & 0x7F | _VARINT_MORE)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _bytes_field(tag: int, content: bytes) -> bytes:
    return bytes((tag,)) + varint(len(content)) + content


def encode_link(name: bytes, link: Link) -> bytes:
    """Return ``link`` as the field of a node."""
    return _bytes_field(
        0x12,
        _bytes_field(0x0A, link.cid.binary)
        + _bytes_field(0x12, name)
        + b"\x18"
        + varint(link.dag_bytes),
    )


def encode_leaf_head(size_bytes: int) -> bytes:
    """Return all that precedes the content of a leaf of ``size_bytes`` in its dag-pb node."""
    content = b"\x12" + varint(size_bytes) if size_bytes else b""
    head = bytes((0x08, NodeType.FILE)) + content
    length = len(head) + size_bytes + 1 + len(varint(size_bytes))
    return b"\x0a" + varint(length) + head


def encode_leaf_tail(size_bytes: int) -> bytes:
    """Return all that follows the content of a leaf in its dag-pb node."""
    return b"\x18" + varint(size_bytes)


def encode_file_data(sizes: Iterable[int]) -> bytes:
    """Return the data of a file's node whose children have content of these sizes."""
    sizes = list(sizes)
    blocks = b"".join(b"\x20" + varint(size) for size in sizes)
    return bytes((0x08, NodeType.FILE)) + b"\x18" + varint(sum(sizes)) + blocks


def encode_shard_data(bitfield: bytes, fanout: int) -> bytes:
    """Return the data of a shard of a directory; ``bitfield`` says which places are taken."""
    return (
        bytes((0x08, NodeType.SHARD))
        + _bytes_field(0x12, bitfield)
        + b"\x28"
        + varint(_MURMUR3)
        + b"\x30"
        + varint(fanout)
    )


DIRECTORY_DATA: Final = bytes((0x08, NodeType.DIRECTORY))


def encode_node(links: Iterable[bytes], data: bytes) -> bytes:
    """Return the block of a node from its encoded links and its data."""
    return b"".join(links) + _bytes_field(0x0A, data)


def node_link(version: int, links: Sequence[Link], block: bytes, *, content_bytes: int = 0) -> Link:
    """Return the link to the node ``block``, whose children are ``links``."""
    cid = Cid(version, Codec.DAG_PB, hashlib.sha256(block).digest())
    return Link(cid, content_bytes, len(block) + sum(link.dag_bytes for link in links))
