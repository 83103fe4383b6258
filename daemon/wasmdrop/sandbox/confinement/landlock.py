"""Deny a child access to files, the network and other processes (landlock(7)).

Restricts every right that the running kernel knows. Exceptions: reading single files that are given
by descriptor, reading below granted directories, and all that WASI can do below one directory.
"""

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from wasmdrop.system import libc

# The same on every architecture.
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446

_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_READ_FILE: Final = 1 << 2
_READ_DIRECTORY: Final = 1 << 3

#: Rights in a job's own directory, by their numbers: write and read files, list directories, remove
#: directories and files, make directories, files and symbolic links, move between directories,
#: truncate. Not: execute, devices, sockets, FIFOs.
_OWN_DIRECTORY: Final = sum(1 << right for right in (1, 2, 3, 4, 5, 7, 8, 12, 13, 14))

#: Number of file rights by ABI version: 13 in the first, then renaming between directories,
#: truncating, and from the fifth on ioctl on devices.
_FILE_RIGHTS: Final = {0: 0, 1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_RIGHTS: Final = 0b11  # bind and connect of TCP, from ABI version 4
_SCOPES: Final = 0b11  # abstract sockets and signals, from ABI version 6
_NET_SINCE: Final = 4
_SCOPES_SINCE: Final = 6


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scopes", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"  # Python 3.14 wants to be told; that of GCC is the same
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


class Rights(NamedTuple):
    """The rights that a version of the ABI restricts, and those that are given."""

    version: int
    files: int
    network: int
    scopes: int
    readable: int
    """Of a file that may be read."""
    own_directory: int
    """Of the directory of a job."""
    grant: int
    """Of a granted directory."""


def abi_version() -> int:
    """Return the ABI version; 0 if Landlock can't be used, see :func:`why_missing`."""
    return max(0, _version_or_error())


def why_missing() -> str:
    """Return why Landlock can't be used, and what to do."""
    number = -_version_or_error()
    if number == errno.EOPNOTSUPP:
        return (
            "this kernel has it switched off: add landlock to the lsm= of the kernel's command line"
        )
    if number == errno.ENOSYS:
        return (
            "this kernel, or an old container engine, does not know it: use Linux 5.13 or later,"
            " and in a container an engine that knows landlock_create_ruleset"
        )
    return (
        f"a filter of system calls forbids it ({os.strerror(number)}): allow"
        " landlock_create_ruleset, landlock_add_rule and landlock_restrict_self in the container's"
        " seccomp profile"
    )


def _version_or_error() -> int:
    """Return the version, or the negative errno."""
    try:
        return libc.syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        return -(error.errno or 0)


def rights_of(version: int) -> Rights:
    """Return the rights of a version of the ABI; none of version 0, which restricts nothing."""
    files = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    return Rights(
        version,
        files,
        _NET_RIGHTS if version >= _NET_SINCE else 0,
        _SCOPES if version >= _SCOPES_SINCE else 0,
        _READ_FILE,
        # The kernel rejects rights that it does not know, and does not restrict them either.
        _OWN_DIRECTORY & files,
        _READ_FILE | _READ_DIRECTORY,
    )


def restrict(
    version: int,
    readable: Sequence[int],
    directory: int | None = None,
    grants: Sequence[int] = (),
) -> None:
    """Restrict the calling thread to reading the files open at ``readable``.

    It may also use plain files freely below ``directory``, and read and list files below the
    directories in ``grants``. Needs ``no_new_privs``. Raises ``OSError``.
    """
    rights = rights_of(version)
    ruleset = _Ruleset(rights.files, rights.network, rights.scopes)
    # An older kernel accepts the larger structure if the fields that it does not know are zero.
    fd = libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0)
    try:
        rules = [_PathBeneath(rights.readable, file) for file in readable]
        rules += [_PathBeneath(rights.grant, grant) for grant in grants]
        if directory is not None:
            rules.append(_PathBeneath(rights.own_directory, directory))
        for rule in rules:
            libc.syscall(_ADD_RULE, fd, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
        libc.syscall(_RESTRICT_SELF, fd, 0)
    finally:
        os.close(fd)
