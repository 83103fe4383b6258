"""Reads and writes small files that the caller of a command names.

Other users may have written those that are read.
"""

import contextlib
import errno
import os
from pathlib import Path

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.system.descriptors import (
    CREATE_FLAGS,
    NotRegularError,
    file_kind,
    open_regular,
    write_all,
)
from wasmdrop.system.durable_files import sync_directory, write_durably


def read_named_file(path: str, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises ``SettingsError``, which names it, if it can't be read, is larger than ``max_bytes``, or
    is a FIFO or a device, which could block.
    """
    try:
        path_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            fd, _status = open_regular(path_fd)
        finally:
            os.close(path_fd)
        with os.fdopen(fd, "rb") as file:
            data = file.read(max_bytes + 1)
    except ValueError:
        raise SettingsError(f"{path}: no file has this name") from None
    except OSError as error:
        raise SettingsError(f"{path}: can't be read: {error.strerror}") from None
    if len(data) > max_bytes:
        raise SettingsError(f"{path}: expected at most {max_bytes} bytes")
    return data


def replace_named_file(name: str, data: bytes) -> None:
    """Write a file durably, in the place of a regular one if there is one.

    Raises ``SettingsError``, which names it, if it can't be written or is anything else: a rename
    would make a file of a device such as ``/dev/null``, or of the link ``/dev/stdout``.
    """
    path = Path(name)
    try:
        with contextlib.suppress(FileNotFoundError):
            kind = file_kind(path.lstat())
            if kind is not None:
                raise NotRegularError(errno.EINVAL, kind)
        with write_durably(path) as file:
            file.write(data)
    except ValueError:
        raise SettingsError(f"{name}: no file has this name") from None
    except OSError as error:
        raise SettingsError(f"{name}: can't be written: {error.strerror}") from None


def create_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file durably that does not exist yet; by default only its owner can read it.

    Raises ``OSError`` and ``ValueError`` as ``os.open`` does.
    """
    fd = os.open(path, CREATE_FLAGS, mode)
    try:
        write_all(fd, data)
        os.fsync(fd)
        sync_directory(path.absolute().parent)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(fd)
