"""How a fleet is reached: its servers, the key of this host, and the demands on the connection."""

import ipaddress
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from wasmdrop.fleet.errors import FleetSettingsError
from wasmdrop.fleet.transport.keys import inbox_prefix, public_key
from wasmdrop.settings import Settings
from wasmdrop.settings.formats import printable
from wasmdrop.settings.values import FleetSecurity
from wasmdrop.system.secret_files import NotSecretError, read_secret

DEFAULT_PORT: Final = 4222

#: A seed has 58 characters.
_MAX_SEED_BYTES: Final = 1024


class Server(msgspec.Struct, frozen=True):
    """A server of the fleet."""

    url: str
    host: str
    is_tls_required: bool


class Access(msgspec.Struct, frozen=True):
    """What a connection needs, read and checked."""

    name: str
    """How the servers call this client in their logs."""
    servers: tuple[Server, ...]
    seed: str
    """The nkey seed, or an empty text."""
    tls: ssl.SSLContext
    inbox: str
    """The prefix of the subjects of answers: only this key may subscribe to them."""

    def __repr__(self) -> str:
        return f"Access({self.name!r}, {[server.url for server in self.servers]!r})"


def read_access(settings: Settings, name: str) -> Access:
    """Read the key and the certificates of the settings.

    Raises ``FleetSettingsError``.
    """
    is_strict = settings.fleet_security is FleetSecurity.STRICT
    servers = tuple(_server(url, is_strict) for url in settings.fleet)
    seed, key = _read_key(settings.fleet_key) if settings.fleet_key is not None else ("", "")
    for server in servers:
        if is_strict and not seed and not _is_loopback(server.host):
            raise FleetSettingsError(
                f"WASMDROP_FLEET: {server.url} is another host and needs a key; set"
                " WASMDROP_FLEET_KEY, or WASMDROP_FLEET_SECURITY=none if everything in its network"
                " is trusted"
            )
    return Access(name, servers, seed, _tls(settings.fleet_ca), inbox_prefix(key))


def _server(url: str, is_strict: bool) -> Server:
    parts = urlsplit(url)
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return Server(
        f"{parts.scheme}://{shown}:{parts.port or DEFAULT_PORT}",
        host,
        parts.scheme == "tls" or (is_strict and not _is_loopback(host)),
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_key(path: Path) -> tuple[str, str]:
    """Return the seed and the public key."""
    try:
        content, _way = read_secret(path, _MAX_SEED_BYTES)
        seed = content.decode("ascii", "replace").strip()
        return seed, public_key(seed)
    except NotSecretError as error:
        reason = f"{error}; {error.advice}"
    except FleetSettingsError as error:
        reason = f"{error}; make one with `wasmdrop fleet config`"
    raise FleetSettingsError(f"WASMDROP_FLEET_KEY: {printable(path)}: {reason}")


def _tls(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        reason = error if isinstance(error, ssl.SSLError) else error.strerror
        raise FleetSettingsError(
            f"WASMDROP_FLEET_CA: {printable(ca)}: {reason}; expected certificates in PEM"
        ) from None
