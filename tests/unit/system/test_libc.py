"""The binding of the C library: results and errors of its calls."""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wasmdrop.system import libc

_GETPGID = {"x86_64": 121, "aarch64": 155}[os.uname().machine]
_PR_GET_NO_NEW_PRIVS = 39


def test_syscall_returns_the_result() -> None:
    """Of getpgid(2), for this process."""
    assert libc.syscall(_GETPGID, ctypes.c_int(0)) == os.getpgid(0)


def test_prctl_without_arguments_passes_zeros() -> None:
    """The kernel rejects this option if an unused argument is not 0."""
    assert libc.prctl(_PR_GET_NO_NEW_PRIVS) in {0, 1}


@pytest.mark.parametrize(
    ("call", "number"),
    [
        (lambda: libc.syscall(_GETPGID, ctypes.c_int(-1)), errno.ESRCH),
        (lambda: libc.syscall(-1), errno.ENOSYS),
        (lambda: libc.prctl(-1), errno.EINVAL),
        (lambda: libc.sync_file_range(-1, 0, 0, 0), errno.EBADF),
    ],
    ids=["syscall", "no-syscall", "prctl", "sync_file_range"],
)
def test_failing_call_raises_os_error_with_its_errno(
    call: Callable[[], object], number: int
) -> None:
    """And with the text of the error."""
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        call()
    assert caught.value.errno == number


def test_sync_file_range_takes_offsets_over_32_bits(tmp_path: Path) -> None:
    """A negative one is invalid, and must not be cut to a valid one."""
    fd = os.open(tmp_path / "a", os.O_WRONLY | os.O_CREAT)
    libc.sync_file_range(fd, 1 << 40, 1 << 40, 2)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        libc.sync_file_range(fd, -(1 << 40), 1, 2)
    os.close(fd)
