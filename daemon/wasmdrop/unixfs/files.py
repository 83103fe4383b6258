"""The CID of a file, from its chunks as they are read, in bounded memory.

The layout is balanced: all leaves are equally far from the root.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from wasmdrop.unixfs.cid import Cid, Codec
from wasmdrop.unixfs.dag_pb import (
    Link,
    encode_file_data,
    encode_leaf_head,
    encode_leaf_tail,
    encode_link,
    encode_node,
    node_link,
)
from wasmdrop.unixfs.profiles import DEFAULT_PROFILE, Profile


def raw_link(sha256_hex: str, size_bytes: int, profile: Profile = DEFAULT_PROFILE) -> Link:
    """Return the link to a file of one raw block.

    Raises ``ValueError`` if the file has more blocks by ``profile``, or none that is raw.
    """
    if not profile.raw_leaves or size_bytes > profile.chunk_bytes:
        raise ValueError(f"a file of {size_bytes} bytes is not one raw block in {profile.name}")
    return Link(Cid(1, Codec.RAW, bytes.fromhex(sha256_hex)), size_bytes, size_bytes)


class FileImporter:
    """Computes the CID of one file from its content.

    ``on_block`` is called with the CID and the content of each block, a node after its children.
    Memory: the links of one node for each level of the tree, and one chunk if leaves are not raw
    or ``on_block`` needs them.
    """

    def __init__(
        self,
        profile: Profile = DEFAULT_PROFILE,
        on_block: Callable[[Cid, bytes], None] | None = None,
    ) -> None:
        self._profile: Final = profile
        self._on_block: Final = on_block
        self._is_kept: Final = on_block is not None or not profile.raw_leaves
        self._hash = hashlib.sha256()
        # The parts of the chunk: its size must be known before the node around it is hashed.
        self._parts: list[bytes] = []
        self._chunk_bytes = 0
        # Of each level, the links that have no node yet; leaves first.
        self._levels: list[list[Link]] = [[]]

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add the next bytes of the file, of any number."""
        view = memoryview(data)
        while view:
            if self._chunk_bytes == self._profile.chunk_bytes:
                self._end_chunk()
            part = view[: self._profile.chunk_bytes - self._chunk_bytes]
            if self._is_kept:
                self._parts.append(bytes(part))
            else:
                self._hash.update(part)
            self._chunk_bytes += len(part)
            view = view[len(part) :]

    def finish(self) -> Link:
        """Return the link to the file. Called once, after the last ``update``."""
        self._end_chunk()  # which is empty only if the file is
        level = 0
        while len(self._levels[level]) > 1 or level + 1 < len(self._levels):
            self._close_node(level)
            level += 1
        return self._levels[level][0]

    def _end_chunk(self) -> None:
        size = self._chunk_bytes
        codec, version, parts = Codec.RAW, 1, self._parts
        if not self._profile.raw_leaves:
            codec, version = Codec.DAG_PB, self._profile.cid_version
            parts = [encode_leaf_head(size), *parts, encode_leaf_tail(size)]
        for part in parts:
            self._hash.update(part)
        cid = Cid(version, codec, self._hash.digest())
        dag_bytes = sum(map(len, parts)) if self._is_kept else size
        if self._on_block is not None:
            self._on_block(cid, b"".join(parts))
        self._hash, self._parts, self._chunk_bytes = hashlib.sha256(), [], 0
        self._add(Link(cid, size, dag_bytes), 0)

    def _add(self, link: Link, level: int) -> None:
        if level == len(self._levels):
            self._levels.append([])
        if len(self._levels[level]) == self._profile.max_links:
            self._close_node(level)
        self._levels[level].append(link)

    def _close_node(self, level: int) -> None:
        """Replace the links of a level by one link to their node, a level higher."""
        links = self._levels[level]
        sizes = [link.content_bytes for link in links]
        block = encode_node((encode_link(b"", link) for link in links), encode_file_data(sizes))
        self._levels[level] = []
        node = node_link(self._profile.cid_version, links, block, content_bytes=sum(sizes))
        if self._on_block is not None:
            self._on_block(node.cid, block)
        self._add(node, level + 1)
