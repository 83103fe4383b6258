"""Blocks from a gateway: what is asked, and that each is verified."""

import hashlib
from collections.abc import Iterator
from typing import Final

import pytest

from wasmdrop.fetch.gateway import Gateway
from wasmdrop.protocol.errors import FetchError
from wasmdrop.unixfs.cid import Cid, Codec
from wasmdrop.web.client import HttpClient
from wasmdrop.web.deadline import Deadline
from wasmdrop.web.url import Origin

BLOCK: Final = b"a block"
CID: Final = Cid(1, Codec.RAW, hashlib.sha256(BLOCK).digest())


class Scripted(HttpClient):
    """A client that answers by itself."""

    def __init__(self, *chunks: bytes) -> None:
        super().__init__(Origin(False, "localhost", 80), Deadline(600))
        self.asked: list[tuple[str, str, int]] = []
        self._chunks = chunks

    def get(self, target: str, accept: str, max_bytes: int) -> Iterator[bytes]:
        """Yield the chunks."""
        self.asked.append((target, accept, max_bytes))
        yield from self._chunks


def test_gateway_block_is_asked_for_as_the_specification_says() -> None:
    """Below the path of the gateway, by format and type, at most 2 MiB."""
    client = Scripted(BLOCK[:3], BLOCK[3:])
    assert Gateway(client, "/base").block(CID) == BLOCK
    expected = (f"/base/ipfs/{CID}?format=raw", "application/vnd.ipld.raw", 2 * 1024 * 1024)
    assert client.asked == [expected]


@pytest.mark.parametrize("sent", [b"", b"a blocK", BLOCK + b"\0"])
def test_gateway_block_that_differs_is_refused(sent: bytes) -> None:
    """The message names the block."""
    with pytest.raises(FetchError, match=f"block {CID}: sent {len(sent)} other bytes"):
        Gateway(Scripted(sent), "").block(CID)
