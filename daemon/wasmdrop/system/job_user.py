"""The user that jobs run as if the daemon is root, which nothing else on the host runs as.

A process may signal and trace others of its user, so jobs do not run as ``nobody``, which other
services also use.
"""

import pwd
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

#: System calls use 2^32 - 1 for "no user".
_HIGHEST_ID: Final = (1 << 32) - 2

#: Title of the fork server, in place of its command line.
_FORK_SERVER: Final = b"wasmdrop: fork server"


class JobUser(msgspec.Struct, frozen=True):
    """A user id and a group id."""

    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"


#: In a range that neither systemd nor the distributions use (systemd.io/UIDS-GIDS), and below
#: 65536, because most user namespaces have no other ids.
DEFAULT_JOB_USER: Final = JobUser(60942, 60942)


def read_job_user(text: str) -> JobUser:
    """Parse a user name or ``UID[:GID]``. Raises ``ValueError`` with the reason."""
    if found := re.fullmatch(r"([0-9]{1,10})(?::([0-9]{1,10}))?", text):
        user = JobUser(int(found[1]), int(found[2] or found[1]))
    else:
        try:
            entry = pwd.getpwnam(text)
        except (KeyError, ValueError):
            raise ValueError("there is no user of this name") from None
        user = JobUser(entry.pw_uid, entry.pw_gid)
    if 0 in (user.uid, user.gid):
        raise ValueError("jobs must not be root's")
    if max(user.uid, user.gid) > _HIGHEST_ID:
        raise ValueError(f"at most {_HIGHEST_ID}")
    return user


def is_mapped(user: JobUser) -> bool:
    """Whether the user namespace of this process has this user and group."""
    for number, name in ((user.uid, "uid_map"), (user.gid, "gid_map")):
        lines = Path("/proc/self", name).read_text(encoding="ascii").splitlines()
        ranges = [(int(first), int(count)) for first, _outside, count in map(str.split, lines)]
        if not any(first <= number < first + count for first, count in ranges):
            return False
    return True


def foreign_processes(user: JobUser, *, besides_jobs: bool = False) -> int:
    """Count the processes of this user; with ``besides_jobs``, without jobs of any wasmdrop."""
    count = 0
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            uids, _parent = _identity(int(path.name))
            if user.uid in uids and not (besides_jobs and _is_job(int(path.name), user)):
                count += 1
    return count


def _is_job(pid: int, user: JobUser) -> bool:
    """Whether a fork server started a process, directly or through a zygote."""
    for ancestor in _ancestors(pid):
        if user.uid not in _identity(ancestor)[0]:
            try:
                return _FORK_SERVER in Path(f"/proc/{ancestor}/cmdline").read_bytes()
            except OSError:
                return False
    return False


def _ancestors(pid: int) -> Iterator[int]:
    while (pid := _identity(pid)[1]) > 0:
        yield pid


def _identity(pid: int) -> tuple[set[int], int]:
    """Return the user ids of a process and its parent's id; nothing if it has exited."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return set(), 0
    fields = dict(line.split(b":", 1) for line in status.splitlines() if b":" in line)
    if fields[b"State"].split()[0] in (b"Z", b"X"):
        return set(), 0
    return set(map(int, fields[b"Uid"].split())), int(fields[b"PPid"])
