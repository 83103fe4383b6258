"""Access to the page of a daemon: its settings and the file of its token."""

from pathlib import Path
from typing import Final

import pytest

from wasmdrop import settings
from wasmdrop.service.doctor import page as doctor_page
from wasmdrop.service.page import PageError, load_access
from wasmdrop.settings import Settings

KNOWN: Final = "0123456789abcdef0123456789abcdef"


def loaded(base: Path, **variables: str) -> Settings:
    """Return settings with the page on, and directories below ``base``."""
    directories = {
        f"WASMDROP_{name.upper()}_DIR": str(base / name) for name in ("shared", "wasm", "state")
    }
    return settings.load({**directories, "WASMDROP_PAGE": "on", **variables}, {}).settings


def token_file(base: Path, content: str = f"{KNOWN}\n", mode: int = 0o600) -> str:
    """Write a token and return its path."""
    path = base / "keys" / "token"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
    return str(path)


def refusal(base: Path, **variables: str) -> str:
    """Return why the page can't be opened; `wasmdrop doctor` says the same."""
    wanted = loaded(base, **variables)
    with pytest.raises(PageError) as refused:
        load_access(wanted)
    [finding] = doctor_page.examine(wanted)
    assert finding.status == "problem"
    assert finding.found == refused.value.found
    assert finding.advice == refused.value.advice
    line = str(refused.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:9100", "127.9.9.9:1", "localhost:9100"])
def test_page_on_a_loopback_address_needs_no_token(tmp_path: Path, address: str) -> None:
    """If one is set, it is needed nevertheless."""
    assert not load_access(loaded(tmp_path, WASMDROP_HTTP=address)).has_login
    token = token_file(tmp_path)
    wanted = loaded(tmp_path, WASMDROP_HTTP=address, WASMDROP_PAGE_TOKEN_FILE=token)
    assert load_access(wanted).has_login
    [finding] = doctor_page.examine(wanted)
    assert finding.status == "ok"


@pytest.mark.parametrize("address", [":9100", "0.0.0.0:9100", "[::]:9100", "192.0.2.1:9100"])
def test_page_on_another_address_needs_a_token(tmp_path: Path, address: str) -> None:
    """The error names both ways out."""
    line = refusal(tmp_path, WASMDROP_HTTP=address)
    assert line.startswith(f"WASMDROP_PAGE: other hosts can reach {address}")
    assert "WASMDROP_PAGE_TOKEN_FILE" in line
    assert "127.0.0.1:9100" in line
    token = token_file(tmp_path)
    wanted = loaded(tmp_path, WASMDROP_HTTP=address, WASMDROP_PAGE_TOKEN_FILE=token)
    assert load_access(wanted).has_login


def test_page_without_an_address_is_refused(tmp_path: Path) -> None:
    """It would be nowhere."""
    assert "set WASMDROP_HTTP" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is empty"),
        (KNOWN[:-1], "it has 31 characters"),
        (f"{KNOWN} {KNOWN}", "it has spaces or other characters"),
        (f"{KNOWN}\n{KNOWN}", "it has spaces or other characters"),
        (f"{KNOWN}é", "it has spaces or other characters"),
        (KNOWN * 40, "it is larger than 1024 bytes"),
    ],
)
def test_page_token_that_is_none_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    """The error does not quote it, and says how to make one."""
    token = token_file(tmp_path, content)
    line = refusal(tmp_path, WASMDROP_HTTP=":9100", WASMDROP_PAGE_TOKEN_FILE=token)
    assert line.startswith(f"WASMDROP_PAGE_TOKEN_FILE: {token}: {reason}")
    assert KNOWN[:8] not in line


def test_page_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """Also on a loopback address; all rules are tested with ``read_secret``."""
    token = token_file(tmp_path, mode=0o644)
    line = refusal(tmp_path, WASMDROP_HTTP="127.0.0.1:0", WASMDROP_PAGE_TOKEN_FILE=token)
    assert "any user can read it" in line
    assert "chmod 600" in line


@pytest.mark.parametrize("place", ["shared", "wasm", "state"])
def test_page_token_in_a_directory_of_producers_is_refused(tmp_path: Path, place: str) -> None:
    """They could read it, or put another one in its place."""
    directory = tmp_path / place
    directory.mkdir()
    token = token_file(directory)
    line = refusal(tmp_path, WASMDROP_HTTP=":9100", WASMDROP_PAGE_TOKEN_FILE=token)
    assert f"reached through the {place} directory" in line


def test_page_that_is_off_is_not_examined(tmp_path: Path) -> None:
    """With any other settings."""
    wanted = loaded(tmp_path, WASMDROP_PAGE="off", WASMDROP_PAGE_TOKEN_FILE=str(tmp_path / "none"))
    assert doctor_page.examine(wanted) == []
