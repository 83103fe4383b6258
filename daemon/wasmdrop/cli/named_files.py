"""Reads small files that the caller of a command names, and other users may have written."""

import os

from wasmdrop.protocol.errors import SettingsError
from wasmdrop.system.descriptors import open_regular


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
