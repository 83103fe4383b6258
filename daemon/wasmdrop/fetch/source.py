"""What to fetch, and from where: parses the addresses that the user gives."""

import re
from typing import Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

import msgspec

from wasmdrop.fetch.http import Origin
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.text import describe_value
from wasmdrop.unixfs.cid import Cid, CidError, parse_cid

_IPFS: Final = "ipfs://"
_PORTS: Final = {"http": 80, "https": 443}
#: RFC 3986 has no other characters, and http.client sends the text as it is.
_URL: Final = re.compile(r"[!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]+")
_DIGEST: Final = re.compile(r"sha256=([0-9a-fA-F]{64})")


class HttpUrl(msgspec.Struct, frozen=True):
    """Where requests go."""

    origin: Origin
    target: str
    """Path and query, as in the first line of a request. Of a gateway: what precedes ``/ipfs/``."""
    text: str
    """The URL, for messages."""


class IpfsSource(msgspec.Struct, frozen=True):
    """A file of IPFS, and the gateway that has its blocks."""

    cid: Cid
    gateway: HttpUrl

    @property
    def name(self) -> str:
        """The name of the file, by which inputs find the module."""
        return f"{self.cid}.wasm"


class UrlSource(msgspec.Struct, frozen=True):
    """A file at a URL, and its SHA-256 in lower-case hex."""

    url: HttpUrl
    sha256: str

    @property
    def name(self) -> str:
        """The name of the file, by which inputs find the module."""
        return f"{self.sha256}.wasm"


Source: TypeAlias = IpfsSource | UrlSource


def parse_source(text: str, gateway: str | None) -> Source:
    """Return what to fetch: ``ipfs://CID``, which needs a gateway, or ``https://…#sha256=HEX``.

    Raises `SettingsError`.
    """
    label = describe_value(text)
    if text.startswith(_IPFS):
        cid = _cid(label, text.removeprefix(_IPFS))
        if not gateway:
            raise SettingsError(f"{label}: expected --gateway URL or the variable IPFS_GATEWAY")
        return IpfsSource(cid, _gateway(gateway))
    url = _split(label, text, "ipfs://CID or a URL with https or http")
    digest = _DIGEST.fullmatch(url.fragment)
    if digest is None:
        raise SettingsError(f"{label}: expected #sha256= and 64 hexadecimal digits at the end")
    target = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
    return UrlSource(HttpUrl(_origin(label, url), target, text), digest[1].lower())


def _gateway(text: str) -> HttpUrl:
    label = f"gateway {describe_value(text)}"
    url = _split(label, text, "a URL with https or http, such as http://127.0.0.1:8080")
    if url.query or url.fragment:
        raise SettingsError(f"{label}: expected a URL without ? and #")
    return HttpUrl(_origin(label, url), url.path.rstrip("/"), text)


def _cid(label: str, text: str) -> Cid:
    if "/" in text or "?" in text or "#" in text:
        raise SettingsError(f"{label}: expected a CID alone, without a path below it")
    try:
        return parse_cid(text)
    except CidError as error:
        raise SettingsError(f"{label}: {error}") from None


def _split(label: str, text: str, expected: str) -> SplitResult:
    try:
        url = urlsplit(text)
    except ValueError:  # brackets that do not match, or with no address in them
        url = SplitResult("", "", "", "", "")
    if url.scheme not in _PORTS or not url.netloc or not _URL.fullmatch(text):
        raise SettingsError(f"{label}: expected {expected}")
    return url


def _origin(label: str, url: SplitResult) -> Origin:
    try:
        host, port = url.hostname, url.port
        (host or "").encode("idna")  # as the look-up of its address does
    except ValueError:
        host, port = None, None
    if not host or "@" in url.netloc or port == 0:
        raise SettingsError(f"{label}: expected HOST or HOST:PORT after ://, and no user")
    return Origin(url.scheme == "https", host, _PORTS[url.scheme] if port is None else port)
