"""What a connection to a fleet must have."""

import ssl
from pathlib import Path

import pytest

from wasmdrop.fleet.errors import FleetSettingsError
from wasmdrop.fleet.transport.access import Access, read_access
from wasmdrop.fleet.transport.keys import new_seed, public_key
from wasmdrop.settings import load


def access(**variables: str) -> Access:
    """Return the access by these settings."""
    return read_access(load(variables, {}).settings, "test")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Return the file of a key."""
    path = tmp_path / "daemon.nk"
    path.touch(mode=0o600)
    path.write_text(f"{new_seed()}\n")
    return path


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"])
def test_server_on_this_host_needs_neither_key_nor_tls(host: str) -> None:
    """Nobody else can listen in."""
    (server,) = access(WASMDROP_FLEET=f"nats://{host}").servers
    assert not server.is_tls_required
    assert server.url == f"nats://{host}:4222"


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "example.org", "localhost.example.org", "[2001:db8::1]"]
)
def test_server_on_another_host_needs_a_key_and_tls(host: str, key: Path) -> None:
    """Also with a scheme that leaves TLS to the server."""
    with pytest.raises(FleetSettingsError, match="is another host and needs a key; set WASMDROP_"):
        access(WASMDROP_FLEET=f"tls://{host}:4000")
    (server,) = access(WASMDROP_FLEET=f"nats://{host}", WASMDROP_FLEET_KEY=str(key)).servers
    assert server.is_tls_required


def test_one_server_on_another_host_is_enough_to_need_a_key() -> None:
    """The order does not matter."""
    with pytest.raises(FleetSettingsError, match=r"nats://192\.0\.2\.1:4222"):
        access(WASMDROP_FLEET="nats://127.0.0.1,nats://192.0.2.1")


def test_fleet_security_none_allows_a_server_without_key_and_tls() -> None:
    """But tls:// means TLS."""
    urls = "nats://192.0.2.1,tls://192.0.2.2"
    plain, tls = access(WASMDROP_FLEET=urls, WASMDROP_FLEET_SECURITY="none").servers
    assert not plain.is_tls_required
    assert tls.is_tls_required


def test_access_has_the_key_and_does_not_show_it(key: Path) -> None:
    """In a log or a traceback."""
    it = access(WASMDROP_FLEET="nats://127.0.0.1", WASMDROP_FLEET_KEY=str(key))
    seed = key.read_text().strip()
    assert it.seed == seed
    assert seed not in repr(it)
    assert it.inbox == f"_I.{public_key(seed)}"
    assert it.tls.verify_mode is ssl.CERT_REQUIRED
    assert it.tls.check_hostname


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        ("SUAB", 0o644, "any user can read it"),
        ("SUAB", 0o600, "it is no seed of a user's nkey; .*`wasmdrop fleet config`"),
        ("SUABCDEF", 0o600, "it is no seed of a user's nkey"),
        ("", 0o600, "it is empty"),
    ],
)
def test_file_that_is_no_safe_key_is_refused(key: Path, content: str, mode: int, text: str) -> None:
    """Without its content."""
    key.write_text(content)
    key.chmod(mode)
    with pytest.raises(FleetSettingsError, match=text) as caught:
        access(WASMDROP_FLEET="nats://127.0.0.1", WASMDROP_FLEET_KEY=str(key))
    assert str(caught.value).startswith(f"WASMDROP_FLEET_KEY: {key}: ")
    assert "SUAB" not in str(caught.value)


def test_file_without_certificates_is_refused(tmp_path: Path) -> None:
    """Also one that is not there."""
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(FleetSettingsError, match=r"WASMDROP_FLEET_CA: .* certificates in PEM"):
            access(WASMDROP_FLEET="nats://127.0.0.1", WASMDROP_FLEET_CA=str(tmp_path / name))
