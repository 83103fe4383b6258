"""``wasmdrop key new``: the key is durable before its public part is printed."""

import argparse
import os
from pathlib import Path
from typing import NoReturn

import pytest

from wasmdrop.cli import key, named_files
from wasmdrop.protocol.errors import SettingsError


def options(file: Path) -> argparse.Namespace:
    """Return the options of ``key new FILE``."""
    return argparse.Namespace(action="new", type="ed25519", file=str(file))


def test_key_new_syncs_the_file_and_its_directory_before_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody may trust the printed key at once, and a power cut must not take the private one."""
    synced: list[Path] = []
    fsync = os.fsync

    def noting(fd: int) -> None:
        assert capsys.readouterr().out == ""
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noting)
    file = tmp_path / "key.pem"
    assert key.run(options(file)) == 0
    assert synced == [file, tmp_path]
    assert "BEGIN PUBLIC KEY" in capsys.readouterr().out


def test_key_new_that_can_not_be_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a key would be taken for one, and keep the next attempt from writing it."""

    def full(_fd: int, _data: bytes) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(named_files, "write_all", full)
    with pytest.raises(SettingsError, match=r"key\.pem: can't be written: No space left on device"):
        key.run(options(tmp_path / "key.pem"))
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""
