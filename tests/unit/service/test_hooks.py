"""Which completion hooks a daemon accepts, and what doctor says of them."""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.support.require import require_root
from wasmdrop import settings
from wasmdrop.hooks.command import CommandHook
from wasmdrop.hooks.webhook import Webhook
from wasmdrop.service import hooks
from wasmdrop.service.doctor import hook as doctor
from wasmdrop.service.doctor.finding import Severity
from wasmdrop.service.hooks import HookSettingsError, describe_hook, load_hook, read_key_again
from wasmdrop.settings import Settings

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of this test alone


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with directories for a daemon, keys and programs."""
    # It would hold for this process, which runs other tests.
    monkeypatch.setattr(hooks, "forbid_inspection", lambda: None)
    for name in ("shared", "wasm", "state", "keys", "bin"):
        (tmp_path / name).mkdir(mode=0o700)
    program = tmp_path / "bin" / "finished"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    secret = tmp_path / "keys" / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    return tmp_path


def settings_of(base: Path, target: str, secret: Path | None = None) -> Settings:
    """Return the settings of a daemon with this hook."""
    variables = {f"WASMDROP_{name.upper()}_DIR": str(base / name) for name in ("shared", "wasm")}
    variables["WASMDROP_ON_FINISHED"] = target
    if secret is not None:
        variables["WASMDROP_ON_FINISHED_SECRET_FILE"] = str(secret)
    return settings.load(variables, {}).settings


def refusal(base: Path, target: str, secret: Path | None = None) -> str:
    """Return why a hook is refused, as doctor and the start say it."""
    given = settings_of(base, target, secret)
    with pytest.raises(HookSettingsError) as caught:
        load_hook(given)
    assert str(caught.value).isprintable()
    assert caught.value.advice
    (finding,) = doctor.examine(given)
    assert (finding.status, finding.found) == (Severity.PROBLEM, caught.value.found)
    return str(caught.value)


def test_hook_of_each_kind_is_accepted_and_described_without_its_path(base: Path) -> None:
    """The path of a URL and the arguments of a command may hold a secret."""
    secret = base / "keys" / "secret"
    remote = settings_of(base, "https://example.org/with/a/token?k=v", secret)
    assert isinstance(load_hook(remote), Webhook)
    assert describe_hook(remote) == "https://example.org:443"
    assert [finding.status for finding in doctor.examine(remote)] == [Severity.OK]
    command = settings_of(base, f"{base}/bin/finished --token x")
    assert isinstance(load_hook(command), CommandHook)
    assert describe_hook(command) == f"{base}/bin/finished"
    assert [finding.status for finding in doctor.examine(command)] == [Severity.OK]
    assert doctor.examine(settings_of(base, "none")) == []


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://example.org/", {"hook encryption", "hook signature"}),
        ("http://127.0.0.1:8000/", {"hook signature"}),
        ("http://[::1]/", {"hook signature"}),
        ("https://example.org/", {"hook signature"}),
    ],
)
def test_hook_that_others_can_read_or_forge_is_a_warning(
    base: Path, url: str, warned: set[str]
) -> None:
    """Not on this host."""
    findings = doctor.examine(settings_of(base, url))
    assert {one.check for one in findings if one.status is Severity.WARNING} == warned
    assert not any(one.status is Severity.PROBLEM for one in findings)


def test_hook_command_that_can_not_run_or_can_be_replaced_is_refused(base: Path) -> None:
    """It runs as the daemon's user, outside of the sandbox."""
    program = base / "bin" / "finished"
    assert "No such file" in refusal(base, f"{base}/bin/nothing")
    assert "can't execute it" in refusal(base, f"{base}/bin")
    program.chmod(0o775)
    assert "other users can change it" in refusal(base, str(program))
    program.chmod(0o644)
    assert "can't execute it" in refusal(base, str(program))
    program.chmod(0o755)
    inside = base / "shared" / "finished"
    inside.write_text("#!/bin/sh\n")
    inside.chmod(0o755)
    assert "where producers can replace it" in refusal(base, str(inside))
    (base / "bin" / "link").symlink_to(inside)
    assert "where producers can replace it" in refusal(base, f"{base}/bin/link")
    assert "is a command" in refusal(base, str(program), base / "keys" / "secret")


def test_hook_command_of_another_user_is_refused(base: Path) -> None:
    """Its owner can change it."""
    require_root()
    os.chown(base / "bin" / "finished", 12345, 12345)
    assert "other users can change it" in refusal(base, f"{base}/bin/finished")


def test_hook_secret_that_others_can_read_or_guess_is_refused(base: Path) -> None:
    """The message does not have it."""
    url, secret = "https://example.org/", base / "keys" / "secret"
    secret.chmod(0o644)
    assert "any user can read it" in refusal(base, url, secret)
    secret.chmod(0o600)
    secret.write_text("whsec_shortest")
    found = refusal(base, url, secret)
    assert "16 bytes or more" in found
    assert "shortest" not in found
    inside = base / "shared" / "secret"
    inside.write_text(SECRET)
    inside.chmod(0o600)
    assert "through the shared directory" in refusal(base, url, inside)
    assert "no such file" in refusal(base, url, base / "keys" / "nothing")


@pytest.mark.parametrize("url", ["https://example.org/ö", "https://example.org/a\\b"])
def test_hook_url_with_other_characters_is_refused(base: Path, url: str) -> None:
    """A request can't have them."""
    assert "RFC 3986" in refusal(base, url)


def test_hook_secret_that_is_read_again_signs_from_then_on(base: Path) -> None:
    """Only when it is used; a wrong one is refused, and the old one stays."""
    secret = base / "keys" / "secret"
    settings = settings_of(base, "https://example.org/", secret)
    hook = load_hook(settings)
    assert isinstance(hook, Webhook)
    before = hook.key
    secret.write_text("whsec_" + "B" * 43 + "=")
    use = read_key_again(hook, settings)
    assert hook.key == before
    use()
    assert hook.key not in {before, None}
    secret.write_text("whsec_shortest")
    with pytest.raises(HookSettingsError, match="secret"):
        read_key_again(hook, settings)
