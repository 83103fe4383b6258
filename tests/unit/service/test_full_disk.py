"""Which errors of a start are those of a full disk."""

import errno
import sqlite3
from pathlib import Path

import pytest

from wasmdrop.protocol.errors import SettingsError, StorageError, WasmdropError
from wasmdrop.service.full_disk import lacks_room


def raised(cause: Exception, error: WasmdropError, *, is_named: bool) -> WasmdropError:
    """Return ``error`` as a step of the start raises it because of ``cause``."""
    try:
        try:
            raise cause
        except type(cause):
            raise error from (cause if is_named else None)
    except WasmdropError as caught:
        return caught


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_error_of_a_disk_without_room_is_recognized(number: int, is_named: bool) -> None:
    """Also if its message does not name the cause."""
    error = raised(OSError(number, "full"), SettingsError("no lock"), is_named=is_named)
    assert lacks_room(error, Path("/"))


def test_other_errors_of_the_start_are_not_those_of_a_full_disk(tmp_path: Path) -> None:
    """They end it: no wait would help."""
    assert not lacks_room(SettingsError("no such directory"), tmp_path)
    denied = raised(PermissionError(errno.EACCES, "no"), StorageError("no"), is_named=True)
    assert not lacks_room(denied, tmp_path)


def test_error_of_sqlite_counts_if_the_state_directory_is_full(tmp_path: Path) -> None:
    """SQLite does not say why it could not make or extend a file; /proc/1 has no free block."""
    cause = sqlite3.OperationalError("unable to open database file")
    error = raised(cause, StorageError("the journal can't be opened"), is_named=True)
    assert not lacks_room(error, tmp_path)
    assert not lacks_room(error, tmp_path / "missing")
    assert lacks_room(error, Path("/proc/self"))
