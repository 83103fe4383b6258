"""Attempts on the daemon's signing key: its file, and the memory of the daemon."""

# ruff: noqa: D401 - the docstring of an attempt describes the gain

import ctypes
import os
from typing import Final

from tests.support.security.syscalls import attempt, call
from tests.support.security.world import DAEMON_MEMORY, SECRET, World

_AT_FDCWD: Final = -100
_PTRACE_SEIZE: Final = 0x4206


def _open(path: str) -> int:
    return call("openat", _AT_FDCWD, os.fsencode(path), os.O_RDONLY | os.O_CLOEXEC, 0)


def _expect(data: bytes) -> str:
    if SECRET not in data:
        raise OSError(0, "something else is there")
    return f"read {data!r}"


@attempt()
def reading_the_signing_key(world: World) -> str:
    """Its file, which the user of the job may read if the daemon is not root."""
    return _expect(os.read(_open(str(world.signing_key)), 4096))


@attempt()
def reading_the_signing_key_through_the_daemons_root(world: World) -> str:
    """``/proc/PID/root`` leads there, too."""
    path = f"/proc/{world.daemon_pid}/root{world.signing_key}"
    return _expect(os.read(_open(path), 4096))


@attempt()
def reading_the_environment_of_the_daemon(world: World) -> str:
    """It names the file of the key."""
    return f"opened {_open(f'/proc/{world.daemon_pid}/environ')}"


@attempt()
def reading_the_maps_of_the_daemon(world: World) -> str:
    """They say where to look for the key."""
    return f"read {len(os.read(_open(f'/proc/{world.daemon_pid}/maps'), 4096))} bytes"


@attempt()
def reading_the_memory_of_the_daemon(world: World) -> str:
    """Through ``/proc/PID/mem``."""
    fd = _open(f"/proc/{world.daemon_pid}/mem")
    return _expect(os.pread(fd, len(SECRET), ctypes.addressof(DAEMON_MEMORY)))


@attempt()
def reading_the_daemons_memory_at_once(world: World) -> str:
    """By process_vm_readv."""
    into = ctypes.create_string_buffer(len(SECRET))
    near = (ctypes.c_size_t * 2)(ctypes.addressof(into), len(SECRET))
    far = (ctypes.c_size_t * 2)(ctypes.addressof(DAEMON_MEMORY), len(SECRET))
    call("process_vm_readv", world.daemon_pid, near, 1, far, 1, 0)
    return _expect(into.raw)


@attempt()
def tracing_the_daemon(world: World) -> str:
    """A tracer reads and controls the process."""
    call("ptrace", _PTRACE_SEIZE, world.daemon_pid, 0, 0)
    return "traced"
