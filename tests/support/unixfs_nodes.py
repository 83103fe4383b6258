"""Blocks of files that no importer would write, for readers of hostile ones."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Final

from wasmdrop.unixfs.cid import Cid, Codec
from wasmdrop.unixfs.dag_pb import Link, NodeType, encode_link, encode_node, varint

HUGE: Final = 10**18


class Blocks(Mapping[str, bytes]):
    """Blocks by the texts of their CIDs."""

    def __init__(self) -> None:
        self._blocks: dict[str, bytes] = {}

    def add(self, block: bytes, codec: Codec = Codec.DAG_PB) -> Cid:
        """Add a block; return its CID."""
        cid = Cid(1, codec, hashlib.sha256(block).digest())
        self._blocks[cid.text] = block
        return cid

    def add_leaf(self, content: bytes) -> tuple[Cid, int]:
        """Add a raw leaf; return it as a child."""
        return self.add(content, Codec.RAW), len(content)

    def add_file(self, *children: tuple[Cid, int], size: int | None = None) -> Cid:
        """Add a file's node with children of declared sizes; ``size`` replaces their sum."""
        total = sum(child_size for _cid, child_size in children) if size is None else size
        data = bytes((8, NodeType.FILE, 0x18)) + varint(total)
        data += b"".join(b"\x20" + varint(child_size) for _cid, child_size in children)
        links = (encode_link(b"", Link(cid, 0, 0)) for cid, _size in children)
        return self.add(encode_node(links, data))

    def add_chain(self, levels: int) -> Cid:
        """Add a file of one byte with a leaf below so many nodes."""
        child = self.add_leaf(b"x")
        for _level in range(levels):
            child = (self.add_file(child), 1)
        return child[0]

    def __getitem__(self, text: str) -> bytes:
        return self._blocks[text]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)
