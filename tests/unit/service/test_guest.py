"""Unit tests of the guest in use: what the log, the metrics and ``config`` say of it."""

from pathlib import Path

import pytest

from wasmdrop.service import guest
from wasmdrop.service.guest import guest_in_use
from wasmdrop.settings import GuestMode


@pytest.mark.parametrize(
    ("mode", "program", "expected"),
    [
        (GuestMode.AUTO, Path("/bin/true"), GuestMode.NATIVE),
        (GuestMode.AUTO, None, GuestMode.PYTHON),
        (GuestMode.NATIVE, Path("/bin/true"), GuestMode.NATIVE),
        (GuestMode.PYTHON, Path("/bin/true"), GuestMode.PYTHON),
    ],
)
def test_guest_in_use_is_native_if_allowed_and_installed(
    monkeypatch: pytest.MonkeyPatch, mode: GuestMode, program: Path | None, expected: GuestMode
) -> None:
    """Never ``auto``."""
    monkeypatch.setattr(guest, "find_native_program", lambda: program)
    assert guest_in_use(mode) is expected
