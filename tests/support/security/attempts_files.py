"""Attempts on files: reading, seeing and changing what is not the job's."""

# ruff: noqa: D401 - the docstring of an attempt describes the gain

import ctypes
import os
from typing import Final

from tests.support.security.syscalls import attempt, call
from tests.support.security.world import SECRET, SIBLING_SECRET_FD, World

_AT_FDCWD: Final = -100
_OPEN_ANY: Final = os.O_RDONLY | os.O_CLOEXEC
_O_TMPFILE: Final = 0x410000


def _path(path: os.PathLike[str] | str) -> bytes:
    return os.fsencode(path)


def _read(path: os.PathLike[str] | str, expected: bytes = b"") -> str:
    fd = call("openat", _AT_FDCWD, _path(path), _OPEN_ANY, 0)
    data = os.read(fd, 4096)
    if expected not in data:
        raise OSError(0, "something else is there")
    return f"read {len(data)} bytes of {path}"


# Reading


@attempt()
def reading_etc_passwd(_world: World) -> str:
    """``/etc/passwd``, which is world-readable."""
    return _read("/etc/passwd")


@attempt()
def reading_a_world_readable_file(world: World) -> str:
    """A file whose mode lets everybody read it."""
    return _read(world.secret, SECRET)


@attempt()
def reading_the_state_directory(world: World) -> str:
    """Even if its modes were wrong."""
    return _read(world.base / "state" / "journal.db", SECRET)


@attempt()
def reading_the_machine_code_of_another_job(world: World) -> str:
    """A job may open only its own machine code."""
    return _read(world.base / "other.cwasm", SECRET)


@attempt()
def listing_a_directory(world: World) -> str:
    """File names are information, too."""
    fd = call("openat", _AT_FDCWD, _path(world.base), os.O_RDONLY | os.O_DIRECTORY, 0)
    buffer = ctypes.create_string_buffer(4096)
    return f"listed {call('getdents64', fd, buffer, 4096)} bytes of names"


@attempt()
def listing_processes(_world: World) -> str:
    """Through ``/proc``."""
    return f"opened {call('openat', _AT_FDCWD, b'/proc', os.O_RDONLY | os.O_DIRECTORY, 0)}"


@attempt()
def reading_with_openat2(world: World) -> str:
    """A newer call than the one that is filtered by its flags."""
    how = (ctypes.c_uint64 * 3)(os.O_RDONLY, 0, 0)
    return f"opened {call('openat2', _AT_FDCWD, _path(world.secret), how, 24)}"


@attempt()
def reading_with_the_old_open(world: World) -> str:
    """An older call."""
    return f"opened {call('open', _path(world.secret), os.O_RDONLY, 0)}"


@attempt(needs="all privileges of init")
def reading_the_environment_of_init(_world: World) -> str:
    """Process 1 of a container has the container's secrets in its environment."""
    return _read("/proc/1/environ")


@attempt()
def reading_the_environment_of_the_parent(world: World) -> str:
    """It is the same program, so it may hold the same secrets."""
    return _read(f"/proc/{world.parent_pid}/environ")


@attempt()
def reading_the_command_line_of_the_parent(world: World) -> str:
    """``/proc/PID/cmdline`` is world-readable."""
    return _read(f"/proc/{world.parent_pid}/cmdline")


@attempt()
def reading_the_maps_of_the_parent(world: World) -> str:
    """They reveal all addresses."""
    return _read(f"/proc/{world.parent_pid}/maps")


@attempt()
def reading_the_memory_of_the_parent(world: World) -> str:
    """Through ``/proc/PID/mem``."""
    fd = call("openat", _AT_FDCWD, _path(f"/proc/{world.parent_pid}/mem"), _OPEN_ANY, 0)
    data = os.pread(fd, 15, ctypes.addressof(world.memory))
    return f"read {data!r}"


@attempt()
def writing_the_memory_of_the_parent(world: World) -> str:
    """Through the same file."""
    fd = call("openat", _AT_FDCWD, _path(f"/proc/{world.parent_pid}/mem"), os.O_RDWR, 0)
    os.pwrite(fd, b"overwritten", ctypes.addressof(world.memory))
    return "wrote"


@attempt()
def reading_the_memory_of_another_job(world: World) -> str:
    """The sibling runs as the same user."""
    fd = call("openat", _AT_FDCWD, _path(f"/proc/{world.sibling_pid}/mem"), _OPEN_ANY, 0)
    return f"read {os.pread(fd, 15, ctypes.addressof(world.memory))!r}"


@attempt()
def reading_an_open_file_of_another_job(world: World) -> str:
    """A memory file of the sibling, which no rule on paths covers."""
    return _read(f"/proc/{world.sibling_pid}/fd/{SIBLING_SECRET_FD}", SECRET)


@attempt()
def reading_an_open_file_of_the_parent(world: World) -> str:
    """Through ``/proc/PID/fd``."""
    return _read(f"/proc/{world.parent_pid}/fd/{world.held_fd}", SECRET)


@attempt()
def following_the_parents_directory(world: World) -> str:
    """``/proc/PID/cwd`` is a link."""
    buffer = ctypes.create_string_buffer(4096)
    path = _path(f"/proc/{world.parent_pid}/cwd")
    return f"{call('readlinkat', _AT_FDCWD, path, buffer, 4096)} bytes of a path"


@attempt()
def entering_the_parents_root(world: World) -> str:
    """``/proc/PID/root`` is a link, too."""
    return _read(f"/proc/{world.parent_pid}/root{world.secret}", SECRET)


@attempt()
def reading_the_kernels_settings(_world: World) -> str:
    """They identify the machine."""
    return _read("/proc/sys/kernel/hostname")


@attempt()
def seeing_that_a_file_exists(world: World) -> str:
    """Its status: size, times and owner."""
    buffer = ctypes.create_string_buffer(256)
    call("newfstatat", _AT_FDCWD, _path(world.secret), buffer, 0)
    return "saw the size and the times of a file"


@attempt()
def seeing_that_a_process_exists(world: World) -> str:
    """The status of its directory: owner and start time."""
    buffer = ctypes.create_string_buffer(256)
    call("statx", _AT_FDCWD, _path(f"/proc/{world.sibling_pid}"), 0, 0x7FF, buffer)
    return "saw another process"


@attempt()
def holding_a_directory(world: World) -> str:
    """An ``O_PATH`` descriptor, from which other calls may start."""
    return f"opened {call('openat', _AT_FDCWD, _path(world.base), 0x200000, 0)}"


@attempt(needs="root")
def opening_by_handle(world: World) -> str:
    """A handle names a file without a path."""
    handle = ctypes.create_string_buffer(128 + 8)
    ctypes.memmove(handle, (128).to_bytes(4, "little"), 4)
    mount_id = ctypes.c_int()
    path = _path(world.secret)
    call("name_to_handle_at", _AT_FDCWD, path, handle, ctypes.byref(mount_id), 0)
    directory = os.open(world.base, os.O_RDONLY)
    return f"opened {call('open_by_handle_at', directory, handle, os.O_RDONLY)}"


@attempt(needs="root")
def opening_by_handle_at_once(world: World) -> str:
    """With a made-up handle, so that no other call comes before."""
    handle = ctypes.create_string_buffer(128 + 8)
    ctypes.memmove(handle, (8).to_bytes(4, "little"), 4)
    stale = 116
    fd = call("open_by_handle_at", _AT_FDCWD, handle, os.O_RDONLY, reached=(stale, 22))
    return f"was answered ({fd}) by {world.base}"


# Changing


@attempt()
def making_a_file_with_openat(world: World) -> str:
    """The call that is allowed for reading."""
    return f"{call('openat', _AT_FDCWD, _path(world.made), os.O_WRONLY | os.O_CREAT, 0o666)}"


@attempt()
def making_a_file_with_creat(world: World) -> str:
    """The oldest call for it."""
    return f"made {call('creat', _path(world.made), 0o666)}"


@attempt(needs="a filesystem with unnamed files")
def making_an_unnamed_file(world: World) -> str:
    """A file that uses space and has no name."""
    return f"made {call('openat', _AT_FDCWD, _path(world.base), _O_TMPFILE | os.O_RDWR, 0o600)}"


@attempt()
def emptying_a_file_with_openat(world: World) -> str:
    """By a flag that is valid together with reading."""
    return f"{call('openat', _AT_FDCWD, _path(world.kept), os.O_RDONLY | os.O_TRUNC, 0)}"


@attempt()
def truncating_a_file(world: World) -> str:
    """By name."""
    return f"{call('truncate', _path(world.kept), 1)}"


@attempt()
def appending_to_a_file(world: World) -> str:
    """A world-writable file."""
    fd = call("openat", _AT_FDCWD, _path(world.kept), os.O_WRONLY | os.O_APPEND, 0)
    return f"wrote {os.write(fd, b'more')}"


@attempt()
def linking(world: World) -> str:
    """A hard link outlives its file."""
    call("linkat", _AT_FDCWD, _path(world.kept), _AT_FDCWD, _path(world.made), 0)
    return "linked"


@attempt()
def linking_symbolically(world: World) -> str:
    """A trap for programs that follow links."""
    call("symlinkat", b"/etc/passwd", _AT_FDCWD, _path(world.made))
    return "linked"


@attempt()
def renaming(world: World) -> str:
    """Over another file."""
    source, target = _path(world.kept), _path(world.base / "other.cwasm")
    call("renameat2", _AT_FDCWD, source, _AT_FDCWD, target, 0)
    return "renamed"


@attempt()
def removing_a_file(world: World) -> str:
    """In a world-writable directory."""
    call("unlinkat", _AT_FDCWD, _path(world.kept), 0)
    return "removed"


@attempt()
def removing_a_directory(world: World) -> str:
    """An empty one."""
    call("unlinkat", _AT_FDCWD, _path(world.base / "empty"), 0x200)
    return "removed"


@attempt()
def making_a_directory(world: World) -> str:
    """In a world-writable directory."""
    call("mkdirat", _AT_FDCWD, _path(world.made), 0o777)
    return "made"


@attempt()
def making_a_pipe_with_a_name(world: World) -> str:
    """It blocks a program that opens it."""
    call("mknodat", _AT_FDCWD, _path(world.made), 0o010666, 0)
    return "made"


@attempt(needs="root")
def making_a_device(world: World) -> str:
    """Such as the machine's memory; here the null device."""
    call("mknodat", _AT_FDCWD, _path(world.made), 0o020666, 0x103)
    return "made"


@attempt()
def changing_the_mode_of_a_file(world: World) -> str:
    """To setuid."""
    call("fchmodat", _AT_FDCWD, _path(world.kept), 0o4777)
    return "changed"


@attempt(needs="root")
def changing_the_owner_of_a_file(world: World) -> str:
    """To another user."""
    call("fchownat", _AT_FDCWD, _path(world.kept), 12345, 12345, 0)
    return "changed"


@attempt()
def changing_the_times_of_a_file(world: World) -> str:
    """The daemon detects changed drops by their times."""
    call("utimensat", _AT_FDCWD, _path(world.kept), (ctypes.c_long * 4)(1, 0, 1, 0), 0)
    return "changed"


@attempt(needs="a filesystem with extended attributes")
def marking_a_file(world: World) -> str:
    """With an extended attribute."""
    call("setxattr", _path(world.kept), b"user.mark", b"x", 1, 0)
    return "marked"


@attempt()
def reopening_the_own_code_for_writing(world: World) -> str:
    """Other jobs use the same file; ``/proc/self/fd`` may reopen it for writing."""
    path = _path(f"/proc/self/fd/{world.given[0]}")
    fd = call("openat", _AT_FDCWD, path, os.O_RDWR, 0)
    return f"wrote {os.pwrite(fd, b'overwritten', 0)}"


@attempt(needs="root")
def reading_the_memory_of_the_machine(_world: World) -> str:
    """Through ``/dev/mem``."""
    return f"opened {call('openat', _AT_FDCWD, b'/dev/mem', _OPEN_ANY, 0)}"


@attempt(needs="root")
def writing_to_the_kernels_log(_world: World) -> str:
    """Opening ``/dev/kmsg`` is enough."""
    return f"opened {call('openat', _AT_FDCWD, b'/dev/kmsg', os.O_WRONLY, 0)}"
