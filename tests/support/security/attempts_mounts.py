"""Attempts on mounts and root directories, and to watch the file accesses of others.

The world has a mount namespace, so that a successful attempt does not change the host.
"""

# ruff: noqa: D401 - the docstring of an attempt describes the gain

import os
from typing import Final

from tests.support.security.syscalls import attempt, call
from tests.support.security.world import World

_AT_FDCWD: Final = -100
_MS_BIND: Final = 4096


@attempt(needs="root")
def mounting(world: World) -> str:
    """A tmpfs."""
    call("mount", b"none", os.fsencode(world.base / "empty"), b"tmpfs", 0, None)
    return "mounted"


@attempt(needs="root")
def mounting_over(world: World) -> str:
    """A bind mount."""
    source, target = os.fsencode(world.mount), os.fsencode(world.base / "empty")
    call("mount", source, target, None, _MS_BIND, None)
    return "mounted"


@attempt(needs="root")
def mounting_by_the_new_calls(world: World) -> str:
    """A mount tree by descriptor."""
    return f"opened {call('open_tree', _AT_FDCWD, os.fsencode(world.mount), 1)}"


@attempt(needs="root")
def opening_a_filesystem(_world: World) -> str:
    """The first of the new mount calls."""
    return f"opened {call('fsopen', b'tmpfs', 0)}"


@attempt(needs="root")
def unmounting(world: World) -> str:
    """To reveal the directory below."""
    call("umount2", os.fsencode(world.mount), 2)
    return "unmounted"


@attempt(needs="root")
def changing_the_root(world: World) -> str:
    """The classic way out of a jail."""
    call("chroot", os.fsencode(world.mount))
    return "changed"


@attempt(needs="root, and a root that is a mount of its own")
def exchanging_the_root(world: World) -> str:
    """And thereby that of all processes."""
    call("pivot_root", os.fsencode(world.mount), os.fsencode(world.mount / "old"))
    return "exchanged"


@attempt()
def watching_files(world: World) -> str:
    """Events of other processes."""
    return f"opened {call('inotify_init1', 0)} beside {world.base}"


@attempt(needs="root")
def watching_the_filesystem(_world: World) -> str:
    """Events of all processes."""
    return f"opened {call('fanotify_init', 0, 0)}"
