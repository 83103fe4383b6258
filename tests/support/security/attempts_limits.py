"""Attempts on descriptors that are not the job's, and on the limits of the own process."""

# ruff: noqa: D401 - the docstring of an attempt describes the gain

import ctypes
import errno
import mmap
import os
import resource
import signal
import termios
import time
from typing import Any, Final

from tests.support.security.syscalls import attempt, call
from tests.support.security.world import World

_AT_FDCWD: Final = -100
_MEBIBYTE: Final = 1 << 20
_PAGE_BYTES: Final = 4096


def _foreign(world: World) -> list[int]:
    known = {0, 1, 2, world.link_fd, *world.given}
    found = []
    for fd in range(1024):
        try:
            os.fstat(fd)
        except OSError:
            continue
        if fd not in known:
            found.append(fd)
    return found


@attempt()
def finding_descriptors(world: World) -> str:
    """That were left open."""
    found = _foreign(world)
    if not found:
        raise OSError(errno.EBADF, "none but the expected ones")
    return f"found {found}"


@attempt()
def writing_to_descriptors(world: World) -> str:
    """Into a file that the parent holds open."""
    for fd in range(1024):
        if fd not in {world.link_fd, *world.given}:
            try:
                if os.path.samestat(os.fstat(fd), (world.base / "held").stat()):
                    os.pwrite(fd, b"overwritten", 0)
            except OSError:
                continue
    raise OSError(errno.EBADF, "the snapshots show whether it was written")


@attempt()
def filling_the_log(_world: World) -> str:
    """Standard output and error of the parent are the daemon's."""
    for fd in (1, 2):
        try:
            os.write(fd, b"a line that was forged\n")
        except OSError:
            continue
    raise OSError(errno.EBADF, "the snapshots show whether it was written")


@attempt(needs="root, a terminal")
def typing_into_a_terminal(world: World) -> str:
    """As if its user had typed it."""
    fd = call("openat", _AT_FDCWD, os.fsencode(world.terminal), os.O_RDONLY | os.O_NOCTTY, 0)
    call("ioctl", fd, termios.TIOCSTI, b"\n")
    return "typed"


# Limits of the own process


@attempt()
def raising_the_own_limits(_world: World) -> str:
    """The soft limit up to the hard one; confined, both are equal."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    call("prlimit64", 0, resource.RLIMIT_NOFILE, (ctypes.c_uint64 * 2)(hard, hard), None)
    return "raised"


@attempt()
def raising_the_own_limits_by_the_old_call(_world: World) -> str:
    """The same by the older call."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    call("setrlimit", resource.RLIMIT_NOFILE, (ctypes.c_uint64 * 2)(hard, hard))
    return "raised"


@attempt()
def computing_for_ever(_world: World) -> str:
    """Past the limit of CPU time, with its warning ignored."""
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    end = time.process_time() + 3.2
    while time.process_time() < end:
        pass
    return "computed on"


@attempt()
def writing_without_end(world: World) -> str:
    """More output than the limit."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    written = 0
    while written <= world.file_bytes:
        written += os.write(world.given[1], bytes(_MEBIBYTE))
    return f"wrote {written} bytes"


@attempt()
def opening_without_end(world: World) -> str:
    """More descriptors than the limit."""
    for count in range(120):
        try:
            call("fcntl", world.given[1], 1030, 0)
        except OSError:
            if count < 70:
                raise
    return "opened 120"


@attempt(needs="a soft limit that is not the hard one")
def locking_memory(_world: World) -> str:
    """So that it can't be paged out; by a flag of an allowed call."""
    area = mmap.mmap(-1, 64 * _PAGE_BYTES, flags=0x22 | 0x2000)
    return f"locked {len(area)} bytes"


def _touch(area: Any) -> None:
    for offset in range(0, len(area), _PAGE_BYTES):
        area[offset] = 1


def _too_much(world: World) -> int:
    return world.data_bytes + 64 * _MEBIBYTE


@attempt()
def taking_private_memory(world: World) -> str:
    """More than the limit, by a private mapping."""
    _touch(mmap.mmap(-1, _too_much(world), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    return "took it"


@attempt()
def taking_shared_memory(world: World) -> str:
    """By a shared mapping."""
    _touch(mmap.mmap(-1, _too_much(world), flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS))
    return "took it"


@attempt()
def taking_memory_as_a_stack(world: World) -> str:
    """The kernel treats a mapping that grows down as a stack."""
    grows_down = 0x100
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | grows_down
    _touch(mmap.mmap(-1, _too_much(world), flags=flags))
    return "took it"


@attempt()
def taking_memory_piece_by_piece(world: World) -> str:
    """A piece that was written and then made unwritable no longer counts."""
    piece_bytes = 32 * _MEBIBYTE
    pieces = []
    for _ in range(_too_much(world) // piece_bytes + 1):
        piece = mmap.mmap(-1, piece_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        _touch(piece)
        address = ctypes.addressof(ctypes.c_char.from_buffer(piece))
        call("mprotect", address, piece_bytes, mmap.PROT_READ)
        pieces.append(piece)
    return f"took {len(pieces)} pieces"


@attempt()
def taking_memory_as_files(world: World) -> str:
    """Each as large as the limit of output, as many as the limit of descriptors."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    written = 0
    block = bytes(_MEBIBYTE)
    while written <= _too_much(world):
        fd = call("memfd_create", b"", 0)
        for _ in range(world.file_bytes // _MEBIBYTE):
            written += os.write(fd, block)
    return f"wrote {written} bytes"
