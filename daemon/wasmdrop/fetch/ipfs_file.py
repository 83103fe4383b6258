"""The content of a file of IPFS, from its blocks.

The blocks are the right ones, but their author may be hostile: a few of them can describe a file
without end. Loops are impossible among hashes, repetition is not.
"""

from collections.abc import Callable, Iterator
from typing import Final

from wasmdrop.protocol.errors import FetchError
from wasmdrop.unixfs.cid import Cid, Codec
from wasmdrop.unixfs.decode import FileNode, NodeError, decode_file_node

#: Most levels of nodes, leaves included. A file of 4 GiB has 3, in chunks of 256 KiB with 174 links
#: a node.
_MAX_DEPTH: Final = 8

#: Most blocks of a file: some, and one more for each of so many bytes. Programs that import files
#: make chunks of 256 KiB or more.
_FREE_BLOCKS: Final = 16
_BYTES_PER_BLOCK: Final = 16 * 1024


class IpfsFile:
    """Reads one file. ``block`` returns the verified block of a CID."""

    def __init__(self, block: Callable[[Cid], bytes], max_bytes: int) -> None:
        self._block = block
        self._max_bytes = max_bytes
        self._blocks_left = _FREE_BLOCKS
        self.size_bytes: int | None = None
        """Size of the file, which the first block declares."""

    def read(self, root: Cid) -> Iterator[bytes]:
        """Yield the content of the file ``root``, in order. Raises `FetchError`."""
        block = self._block(root)
        node = _decode(root, block)
        self.size_bytes = node.size_bytes
        if node.size_bytes > self._max_bytes:
            raise FetchError(
                f"block {root}: declares a file of {node.size_bytes} bytes, more than"
                f" {self._max_bytes} (WASMDROP_MAX_MODULE_MB)"
            )
        self._blocks_left += node.size_bytes // _BYTES_PER_BLOCK
        yield from self._content(root, node, 1)

    def _content(self, cid: Cid, node: FileNode, depth: int) -> Iterator[bytes]:
        if node.content:
            yield node.content
        if node.children and depth == _MAX_DEPTH:
            raise FetchError(f"block {cid}: has parts below level {_MAX_DEPTH}")
        self._blocks_left -= len(node.children)
        if self._blocks_left < 0:
            raise FetchError(
                f"block {cid}: a file of {self.size_bytes} bytes has too many blocks: expected"
                f" {_BYTES_PER_BLOCK} bytes or more in each"
            )
        for child in node.children:
            part = _decode(child.cid, self._block(child.cid))
            if part.size_bytes != child.size_bytes:
                raise FetchError(
                    f"block {child.cid}: has {part.size_bytes} bytes of content, but block {cid}"
                    f" declares {child.size_bytes}"
                )
            yield from self._content(child.cid, part, depth + 1)


def _decode(cid: Cid, block: bytes) -> FileNode:
    if cid.codec is Codec.RAW:
        return FileNode(block, (), len(block))
    try:
        return decode_file_node(block)
    except NodeError as error:
        raise FetchError(f"block {cid}: {error}") from None
