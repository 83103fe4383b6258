"""Rights: what a message says when the daemon's user may not use a file, and what to do."""

import os
import stat

__all__ = ["OTHER_USER", "described"]

#: How the daemon becomes the user that a file belongs to.
OTHER_USER = (
    "run the daemon as that user (User= of systemd, --user of docker, runAsUser of Kubernetes)"
)


def described(status: os.stat_result) -> str:
    """Return who owns what has this status, its mode, and who the daemon is."""
    mode = stat.S_IMODE(status.st_mode)
    return (
        f"it belongs to user {status.st_uid} and group {status.st_gid}, its mode is {mode:04o};"
        f" the daemon is user {os.geteuid()} and group {os.getegid()}"
    )
