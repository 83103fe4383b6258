"""What to fetch, and from where: parses the addresses that the user gives."""

import re
from typing import Final, TypeAlias

import msgspec

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.text import describe_value
from wasmdrop.unixfs.cid import Cid, CidError, parse_cid
from wasmdrop.web.url import HttpUrl, origin_of, split_url, target_of

_IPFS: Final = "ipfs://"
_DIGEST: Final = re.compile(r"sha256=([0-9a-fA-F]{64})")


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
    url = split_url(label, text, "ipfs://CID or a URL with https or http")
    digest = _DIGEST.fullmatch(url.fragment)
    if digest is None:
        raise SettingsError(f"{label}: expected #sha256= and 64 hexadecimal digits at the end")
    return UrlSource(HttpUrl(origin_of(label, url), target_of(url), text), digest[1].lower())


def _gateway(text: str) -> HttpUrl:
    label = f"gateway {describe_value(text)}"
    url = split_url(label, text, "a URL with https or http, such as http://127.0.0.1:8080")
    if url.query or url.fragment:
        raise SettingsError(f"{label}: expected a URL without ? and #")
    return HttpUrl(origin_of(label, url), url.path.rstrip("/"), text)


def _cid(label: str, text: str) -> Cid:
    if "/" in text or "?" in text or "#" in text:
        raise SettingsError(f"{label}: expected a CID alone, without a path below it")
    try:
        return parse_cid(text)
    except CidError as error:
        raise SettingsError(f"{label}: {error}") from None
