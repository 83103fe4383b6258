"""Content of which nothing is known, compared with the digest that a source names."""

import hashlib
from typing import Final

import pytest

from tests.support.raw_server import blocks_of
from wasmdrop.fetch.content_digest import SourceDigest
from wasmdrop.fetch.source import IpfsSource, Source, UrlSource
from wasmdrop.unixfs.profiles import CIDV1, PROFILES
from wasmdrop.web.url import HttpUrl, Origin

CONTENT: Final = bytes(CIDV1.chunk_bytes) + b"another chunk"
URL: Final = HttpUrl(Origin(False, "localhost", 80), "", "http://localhost")


def is_of_source(source: Source, content: bytes) -> bool:
    """Whether content is found to be that of a source."""
    digest = SourceDigest(source)
    for at in range(0, len(content), 100_000):
        digest.update(content[at : at + 100_000])
    assert (digest.size_bytes, digest.sha256) == (
        len(content),
        hashlib.sha256(content).hexdigest(),
    )
    return digest.is_of_source()


@pytest.mark.parametrize(
    "source",
    [
        UrlSource(URL, hashlib.sha256(CONTENT).hexdigest()),
        *(IpfsSource(blocks_of(CONTENT, profile)[0], URL) for profile in PROFILES.values()),
    ],
    ids=["url", *PROFILES],
)
def test_source_digest_recognizes_its_content_alone(source: Source) -> None:
    """In the chunks of each profile, and as a single block."""
    assert is_of_source(source, CONTENT)
    assert not is_of_source(source, CONTENT[:-1])
    assert not is_of_source(source, b"\1" + CONTENT[1:])
