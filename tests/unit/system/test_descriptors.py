"""Descriptors: only regular files are opened, and writes are complete."""

import os
import socket
from pathlib import Path

import pytest

from wasmdrop.system.descriptors import NotRegularError, file_kind, open_regular, write_all


def opened(path: Path) -> int:
    """Return an ``O_PATH`` descriptor of ``path`` itself."""
    return os.open(path, os.O_PATH | os.O_NOFOLLOW)


def test_open_regular_of_renamed_file_opens_the_same_file(tmp_path: Path) -> None:
    """Not the file that has its name by now."""
    path = tmp_path / "a"
    path.write_bytes(b"first")
    path_fd = opened(path)
    path.rename(tmp_path / "b")
    path.write_bytes(b"second")
    fd, status = open_regular(path_fd)
    assert os.read(fd, 10) == b"first"
    assert status.st_size == 5
    os.close(fd)
    os.close(path_fd)


@pytest.mark.parametrize("kind", ["a directory", "a link", "a FIFO", "a socket"])
def test_open_regular_of_other_file_raises_with_its_kind(tmp_path: Path, kind: str) -> None:
    """Without opening it: opening the FIFO would give a descriptor, or block."""
    path = tmp_path / "a"
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "a directory":
            path.mkdir()
        elif kind == "a link":
            path.symlink_to("/etc/passwd")
        elif kind == "a FIFO":
            os.mkfifo(path)
        else:
            listener.bind(str(path))
        path_fd = opened(path)
        with pytest.raises(NotRegularError, match=kind):
            open_regular(path_fd)
        assert file_kind(os.fstat(path_fd)) == kind
        os.close(path_fd)


def test_write_all_after_short_writes_has_written_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The kernel may write less than it is given, for instance near a limit."""
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, data[:3]))
    path = tmp_path / "a"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    write_all(fd, b"0123456789")
    os.close(fd)
    assert path.read_bytes() == b"0123456789"
