"""Unit tests of the check of the native program."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.service import guest as guest_module
from wasmdrop.service.doctor import guest
from wasmdrop.service.doctor.finding import Finding, Severity
from wasmdrop.settings import Settings, load


def settings(mode: str) -> Settings:
    """Return the settings with this guest."""
    return load({"WASMDROP_STATE_DIR": "/s", "WASMDROP_GUEST": mode}, {}).settings


def finding(monkeypatch: pytest.MonkeyPatch, mode: str, program: Path | None) -> Finding:
    """Return the finding for a setting and an installed program, or none."""
    monkeypatch.setattr(guest, "find_native_program", lambda: program)
    (found,) = guest.examine(settings(mode))
    return found


@pytest.mark.parametrize(
    ("mode", "status"),
    [("auto", Severity.WARNING), ("native", Severity.PROBLEM), ("python", Severity.OK)],
)
def test_native_program_that_is_missing_is_reported_unless_python_is_set(
    monkeypatch: pytest.MonkeyPatch, mode: str, status: Severity
) -> None:
    """The advice is to install a compiler."""
    found = finding(monkeypatch, mode, None)
    assert found.status is status
    assert ("C compiler" in found.advice) is (mode != "python")


@pytest.mark.parametrize("reason", ["", "it was built for another machine"])
def test_native_program_that_is_installed_is_tried(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """The finding names it, and why it does not work."""

    async def why_unusable(*_args: object) -> str:
        return reason

    program = Path("/bin/true")
    monkeypatch.setattr(guest_module, "find_native_program", lambda: program)
    monkeypatch.setattr(guest, "why_unusable", why_unusable)
    (found,) = asyncio.run(guest.try_program(settings("auto"), cast("ForkServer", None)))
    assert found.status is (Severity.PROBLEM if reason else Severity.OK)
    assert str(program) in found.found
    assert reason in found.found
    assert ("WASMDROP_GUEST=python" in found.advice) is bool(reason)
    assert asyncio.run(guest.try_program(settings("python"), cast("ForkServer", None))) == []
