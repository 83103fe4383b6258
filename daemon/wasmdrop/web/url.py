"""Parse the URLs of servers that the user or the operator names."""

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from wasmdrop.protocol.errors import SettingsError

_PORTS: Final = {"http": 80, "https": 443}
#: RFC 3986 has no other characters, and http.client sends the text as it is.
_URL: Final = re.compile(r"[!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]+")


class Origin(msgspec.Struct, frozen=True):
    """A server: where requests go."""

    is_encrypted: bool
    host: str
    port: int


class HttpUrl(msgspec.Struct, frozen=True):
    """Where requests go."""

    origin: Origin
    target: str
    """Path and query, as in the first line of a request. Of a gateway: what precedes ``/ipfs/``."""
    text: str
    """The URL, for messages."""


def split_url(label: str, text: str, expected: str) -> SplitResult:
    """Split a URL with http or https. Raises `SettingsError`, which names it by ``label``."""
    try:
        url = urlsplit(text)
    except ValueError:  # brackets that do not match, or with no address in them
        url = SplitResult("", "", "", "", "")
    if url.scheme not in _PORTS or not url.netloc:
        raise SettingsError(f"{label}: expected {expected}")
    if not _URL.fullmatch(text):
        raise SettingsError(f"{label}: expected only the characters of RFC 3986")
    return url


def origin_of(label: str, url: SplitResult) -> Origin:
    """Return the server of a URL. Raises `SettingsError`, which names it by ``label``."""
    try:
        host, port = url.hostname, url.port
        (host or "").encode("idna")  # as the look-up of its address does
    except ValueError:
        host, port = None, None
    if not host or "@" in url.netloc or port == 0:
        raise SettingsError(f"{label}: expected HOST or HOST:PORT after ://, and no user")
    return Origin(url.scheme == "https", host, _PORTS[url.scheme] if port is None else port)


def target_of(url: SplitResult) -> str:
    """Return path and query of a URL."""
    return f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
