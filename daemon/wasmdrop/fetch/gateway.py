"""Blocks from an IPFS gateway, each verified by itself.

A trustless gateway has to answer for single blocks
(https://specs.ipfs.tech/http-gateways/trustless-gateway/).
"""

import hashlib
from typing import Final

from wasmdrop.protocol.errors import FetchError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.unixfs.cid import Cid
from wasmdrop.web.client import HttpClient

#: Blocks have at most 2 MiB, by recommendation of the specification of gateways.
_MAX_BLOCK_BYTES: Final = 2 * MEBIBYTE
_RAW_BLOCK: Final = "application/vnd.ipld.raw"


class Gateway:
    """Asks the gateway below ``path`` of a server for blocks."""

    def __init__(self, client: HttpClient, path: str) -> None:
        self._client = client
        self._path = path

    def block(self, cid: Cid) -> bytes:
        """Return the block that ``cid`` names. Raises `FetchError`."""
        try:
            chunks = self._client.get(
                f"{self._path}/ipfs/{cid}?format=raw", _RAW_BLOCK, _MAX_BLOCK_BYTES
            )
            block = b"".join(chunks)
            if hashlib.sha256(block).digest() != cid.digest:
                raise FetchError(f"sent {len(block)} other bytes")
        except FetchError as error:
            raise FetchError(f"block {cid}: {error}") from None
        return block
