"""What to fetch, and from where: the addresses that a user gives."""

from typing import Final

import pytest

from wasmdrop.fetch.source import IpfsSource, UrlSource, parse_source
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.unixfs.cid import Cid, Codec
from wasmdrop.web.url import HttpUrl, Origin

HEX: Final = "0123456789abcdef" * 4
RAW: Final = Cid(1, Codec.RAW, bytes.fromhex(HEX))
V0: Final = Cid(0, Codec.DAG_PB, bytes.fromhex(HEX))


@pytest.mark.parametrize(
    ("gateway", "origin", "path"),
    [
        ("http://127.0.0.1:8080", Origin(False, "127.0.0.1", 8080), ""),
        ("http://[::1]:8080/", Origin(False, "::1", 8080), ""),
        ("https://Gateway.example/a/b/", Origin(True, "gateway.example", 443), "/a/b"),
        ("HTTP://gateway.example", Origin(False, "gateway.example", 80), ""),
    ],
)
def test_ipfs_source_has_the_place_of_its_gateway(gateway: str, origin: Origin, path: str) -> None:
    """Its server, and the path above ``/ipfs/``."""
    expected = IpfsSource(RAW, HttpUrl(origin, path, gateway))
    assert parse_source(f"ipfs://{RAW}", gateway) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (RAW.text, f"{RAW}.wasm"),
        (V0.text, f"{V0}.wasm"),
        (f"f{RAW.binary.hex()}", f"{RAW}.wasm"),
    ],
)
def test_ipfs_source_name_is_the_usual_text_of_the_cid(text: str, name: str) -> None:
    """Version 0 stays version 0; another base becomes base32."""
    assert parse_source(f"ipfs://{text}", "http://localhost").name == name


@pytest.mark.parametrize(
    ("text", "origin", "target"),
    [
        ("https://example.org/a%20b.wasm", Origin(True, "example.org", 443), "/a%20b.wasm"),
        ("http://example.org:81?a=b&c", Origin(False, "example.org", 81), "/?a=b&c"),
    ],
)
def test_url_source_has_its_place_and_digest(text: str, origin: Origin, target: str) -> None:
    """The digest in lower case names the file; the fragment is not sent."""
    whole = f"{text}#sha256={HEX.upper()}"
    source = parse_source(whole, None)
    assert source == UrlSource(HttpUrl(origin, target, whole), HEX)
    assert source.name == f"{HEX}.wasm"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("bafybei", "expected ipfs://CID or a URL"),
        ("", "expected ipfs://CID or a URL"),
        ("ftp://example.org/a#sha256=" + HEX, "expected ipfs://CID or a URL"),
        ("file:///etc/passwd#sha256=" + HEX, "expected ipfs://CID or a URL"),
        ("https:///a#sha256=" + HEX, "expected ipfs://CID or a URL"),
        ("https://[::1/a#sha256=" + HEX, "expected ipfs://CID or a URL"),
        ("https://example.org/a b#sha256=" + HEX, "expected only the characters of RFC 3986"),
        ("https://example.org/a\r\nX: y#sha256=" + HEX, "expected only the characters of RFC 3986"),
        ("https://ex\u00e4mple.org/a#sha256=" + HEX, "expected only the characters of RFC 3986"),
        ("https://user:word@example.org/a#sha256=" + HEX, "expected HOST or HOST:PORT"),
        ("https://:80/a#sha256=" + HEX, "expected HOST or HOST:PORT"),
        ("https://example.org:x/a#sha256=" + HEX, "expected HOST or HOST:PORT"),
        ("https://example.org:65536/a#sha256=" + HEX, "expected HOST or HOST:PORT"),
        ("https://example.org:0/a#sha256=" + HEX, "expected HOST or HOST:PORT"),
        (f"https://{'a' * 64}.org/a#sha256=" + HEX, "expected HOST or HOST:PORT"),
        ("https://a..org/a#sha256=" + HEX, "expected HOST or HOST:PORT"),
        ("https://example.org/a", "expected #sha256="),
        ("https://example.org/a#md5=" + HEX, "expected #sha256="),
        ("https://example.org/a#sha256=" + HEX[1:], "expected #sha256="),
        (f"https://example.org/a#sha256={HEX}&x", "expected #sha256="),
        (f"ipns://{RAW}", "expected ipfs://CID or a URL"),
        ("ipfs://example.org", "is not a CID"),
        (f"ipfs://{RAW.text.upper()}", "is not a CID"),
        (f"ipfs://{RAW}/path", "without a path"),
        (f"ipfs://{RAW}/", "without a path"),
        (f"ipfs://{RAW}?format=raw", "without a path"),
        ("ipfs://bafkqaaa", "unsupported hash"),  # the identity "hash" of nothing
        (f"ipfs://f01551204{HEX[:8]}", "unsupported hash"),  # four bytes of a SHA-256
        (f"ipfs://f01551340{HEX}{HEX}", "unsupported hash|at most"),  # SHA-512
        (f"ipfs://f01711220{HEX}", "data that is no file"),  # dag-cbor
    ],
)
def test_source_that_is_wrong_is_refused(text: str, reason: str) -> None:
    """In one line, before any request."""
    with pytest.raises(SettingsError, match=reason) as caught:
        parse_source(text, "http://localhost")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("gateway", "reason"),
    [
        (None, "expected --gateway URL or the variable IPFS_GATEWAY"),
        ("", "expected --gateway URL or the variable IPFS_GATEWAY"),
        ("localhost:8080", "expected a URL with https or http, such as"),
        ("ipfs://localhost", "expected a URL with https or http, such as"),
        ("http://localhost/?a", "without [?] and #"),
        ("http://localhost/#a", "without [?] and #"),
        ("http://user@localhost", "and no user"),
    ],
)
def test_gateway_that_is_wrong_is_refused(gateway: str | None, reason: str) -> None:
    """In one line, before any request."""
    with pytest.raises(SettingsError, match=reason) as caught:
        parse_source(f"ipfs://{RAW}", gateway)
    assert str(caught.value).isprintable()
