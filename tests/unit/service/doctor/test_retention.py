"""Unit tests of the check of the rights that retention needs."""

import os
from pathlib import Path

import pytest

from wasmdrop.service.doctor import retention
from wasmdrop.service.doctor.finding import Severity
from wasmdrop.settings import load


@pytest.mark.parametrize(
    ("after", "mode", "user", "severities"),
    [
        ("keep", 0o1777, "another", []),
        ("archive", 0o777, "another", [Severity.OK]),
        ("archive", 0o1777, "the owner", [Severity.OK]),
        ("remove", 0o1777, "another", [Severity.WARNING]),
    ],
)
def test_directory_whose_inputs_can_not_be_moved_is_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: str,
    mode: int,
    user: str,
    severities: list[Severity],
) -> None:
    """In a directory with the sticky bit only the owners may rename files."""
    (tmp_path / "slot").mkdir()
    (tmp_path / "slot").chmod(mode)
    owner = os.geteuid()
    known = {
        "WASMDROP_STATE_DIR": "/s",
        "WASMDROP_SHARED_DIR": str(tmp_path),
        "WASMDROP_AFTER": after,
    }
    settings = load(known, {"config": "none"}).settings
    monkeypatch.setattr(os, "geteuid", lambda: owner if user == "the owner" else 4003)
    found = retention.examine(settings)
    assert [one.status for one in found] == severities
    assert all(str(tmp_path / "slot") in one.found for one in found if one.advice)
