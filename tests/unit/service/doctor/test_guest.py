"""Unit tests of the check of the native program."""

from pathlib import Path

import pytest

from wasmdrop.service.doctor import guest
from wasmdrop.service.doctor.finding import Finding, Severity
from wasmdrop.settings import load


def finding(monkeypatch: pytest.MonkeyPatch, mode: str, program: Path | None) -> Finding:
    """Return the finding for a setting and an installed program, or none."""
    monkeypatch.setattr(guest, "find_native_program", lambda: program)
    (found,) = guest.examine(
        load({"WASMDROP_STATE_DIR": "/s", "WASMDROP_GUEST": mode}, {}).settings
    )
    return found


def script(tmp_path: Path, text: str) -> Path:
    """Return an executable with this content."""
    path = tmp_path / "zygote"
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("mode", ["auto", "native"])
def test_native_program_that_runs_is_ok(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str
) -> None:
    """The finding names it."""
    program = script(tmp_path, "#!/bin/sh\nexit 2\n")
    found = finding(monkeypatch, mode, program)
    assert (found.status, found.found) == (Severity.OK, str(program))


@pytest.mark.parametrize(
    ("text", "reason"), [("#!/bin/sh\nexit 127\n", "status 127"), ("\x7fELF", "Exec format error")]
)
def test_native_program_that_does_not_run_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, reason: str
) -> None:
    """It may be of another architecture, or of another C library."""
    found = finding(monkeypatch, "auto", script(tmp_path, text))
    assert found.status is Severity.PROBLEM
    assert reason in found.found
    assert "WASMDROP_GUEST=python" in found.advice


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
