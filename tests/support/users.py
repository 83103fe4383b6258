"""Processes of several users on one machine: of the daemon, and of owners of slots."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import wasmdrop

#: Users without a name in passwd(5): two owners of slots, and an ordinary user for the daemon.
ALICE: Final = 4001
BOB: Final = 4002
DAEMON: Final = 4003


def as_user(uid: int) -> tuple[str, ...]:
    """Return a prefix that runs a command as ``uid``, with no other group or capability."""
    become = (
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    )
    return (*_opened(), *become) if uid else ()


def _opened() -> tuple[str, ...]:
    """Return a command that makes the interpreter and the package reachable for any user."""
    needed = {Path(sys.base_prefix), Path(sys.prefix), Path(wasmdrop.__file__).parents[2]}
    closed = {path: top for path in needed if (top := _closed_above(path)) is not None}
    if not closed:
        return ()
    script = ["set -e"]
    places = {}
    for number, path in enumerate(sorted(closed)):
        places[path] = f"/run/wasmdrop-test-{os.getpid()}-{number}"
        script += [f"mkdir -p {places[path]}", f"mount --bind {path} {places[path]}"]
    script += [f"mount -t tmpfs -o mode=755 tmpfs {top}" for top in sorted(set(closed.values()))]
    for path, place in places.items():
        script += [f"mkdir -p {path}", f"mount --bind {place} {path}"]
    script += ['exec "$@"']
    return ("unshare", "--mount", "sh", "-c", "\n".join(script), "sh")


def _closed_above(path: Path) -> Path | None:
    """Return the topmost directory above ``path`` that others may not search, if there is one."""
    for above in reversed(path.parents):
        if not above.stat().st_mode & 0o001:
            return above
    return None


@contextmanager
def shared_base() -> Iterator[Path]:
    """Give a directory that all users may search, for a daemon's directories."""
    base = Path(tempfile.mkdtemp(prefix="wasmdrop-users-", dir="/tmp"))
    base.chmod(0o755)
    try:
        yield base
    finally:
        subprocess.run(["rm", "-rf", str(base)], check=True)
