"""Renames that replace nothing (renameat2(2))."""

import ctypes
import errno
import os
import platform
from typing import Final

from wasmdrop.system import libc

#: renameat2(2) in the kernel's system call tables.
_RENAMEAT2: Final = 316 if platform.machine() == "x86_64" else 276
_RENAME_NOREPLACE: Final = ctypes.c_uint(1)

#: Errors of NFS and other filesystems that can't do it, and of kernels and sandboxes without it.
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def rename_to_new(name: str, directory: int, new_name: str, new_directory: int) -> None:
    """Rename ``name``, which no other process uses, in one open directory into another one.

    Raises ``FileExistsError`` if there is a ``new_name`` already, else ``OSError`` as rename(2)
    does.
    """
    try:
        libc.syscall(
            *(_RENAMEAT2, directory, os.fsencode(name)),
            *(new_directory, os.fsencode(new_name), _RENAME_NOREPLACE),
        )
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise OSError(error.errno, error.strerror, name) from None
        # A new link replaces nothing either.
        os.link(name, new_name, src_dir_fd=directory, dst_dir_fd=new_directory)
        os.unlink(name, dir_fd=directory)
