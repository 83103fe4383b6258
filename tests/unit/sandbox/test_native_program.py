"""Unit tests of the search for the native program."""

from pathlib import Path

import pytest

from wasmdrop.sandbox import native_program
from wasmdrop.sandbox.native_program import find_native_program


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the program is expected."""
    it = tmp_path / "zygote"
    monkeypatch.setattr(native_program, "_PROGRAM", it)
    return it


def test_program_that_was_built_is_found(path: Path) -> None:
    """By its path in the package."""
    path.touch(mode=0o755)
    assert find_native_program() == path


def test_program_that_is_absent_is_not_found(path: Path) -> None:
    """The package was installed without a compiler."""
    assert not path.exists()
    assert find_native_program() is None


def test_program_that_is_no_executable_file_is_not_found(path: Path) -> None:
    """A file without the right to execute, or a directory."""
    path.touch(mode=0o644)
    assert find_native_program() is None
    path.unlink()
    path.mkdir()
    assert find_native_program() is None
