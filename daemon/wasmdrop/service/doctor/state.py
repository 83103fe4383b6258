"""Check that the state directory is private, local, lockable and undamaged.

Only reads, because a daemon may be using it. The journal is opened read-only, without creating
files beside it.
"""

import contextlib
import os
import sqlite3
import stat
from pathlib import Path
from typing import Final

from wasmdrop.jobs.journal.database import JOURNAL_NAME, SCHEMA_VERSION, open_for_reading
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.service.doctor.finding import Finding, ok, problem, warning
from wasmdrop.service.doctor.mounts import free_space
from wasmdrop.service.instance_lock import state_holder
from wasmdrop.settings import Settings
from wasmdrop.system.mount_table import reason_to_poll
from wasmdrop.system.private_files import why_not_private

_AREA: Final = "state"


def examine(settings: Settings) -> list[Finding]:
    """Check the state directory and its contents."""
    path = settings.state_dir
    if not os.path.lexists(path):
        return [_can_be_made(path), _locality(_existing(path))]
    try:
        privacy = _privacy(path)
        findings = [privacy, _locality(path)]
        if path.is_dir() and os.access(path, os.R_OK | os.W_OK | os.X_OK):
            findings += [_lock(path), _journal(path / JOURNAL_NAME)]
            findings += [_cache(settings), free_space(_AREA, "state directory", path)]
    except OSError as error:
        advice = f"let user {os.geteuid()}, who runs this, read and write it"
        return [problem(_AREA, "state directory", f"{path}: {error.strerror}", advice)]
    return findings


def _existing(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.exists())


def _can_be_made(path: Path) -> Finding:
    parent = _existing(path)
    check = "state directory"
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return ok(_AREA, check, f"{path} is not there yet, and can be made")
    found = f"{path} is not there, and can't be made in {parent} (as user {os.geteuid()})"
    return problem(_AREA, check, found, "make it for that user, or set WASMDROP_STATE_DIR")


def _privacy(path: Path) -> Finding:
    check = "state directory"
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        advice = "remove it, or set WASMDROP_STATE_DIR"
        return problem(_AREA, check, f"{path} is not a directory", advice)
    parts = [path, path / "modules", path / "code"]
    for part in (part for part in parts if os.path.lexists(part)):
        reason = why_not_private(part.stat() if part == path else part.lstat())
        if reason is not None:
            advice = (
                "run this, and the daemon, as the user it belongs to; else"
                f" chown -R {os.geteuid()} and chmod -R go-w {path}"
            )
            return problem(_AREA, check, f"{part} is not the daemon's alone: {reason}", advice)
    if not os.access(path, os.W_OK | os.X_OK):
        advice = "mount it read-write"
        return problem(_AREA, check, f"{path} can't be written to", advice)
    for parent in Path(os.path.realpath(path)).parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            advice = f"chmod o-w {parent}, or set WASMDROP_STATE_DIR to a place elsewhere"
            found = f"others may write to {parent}, and so put another {path} in its place"
            return warning(_AREA, check, found, advice)
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        found = f"other users can read {path}, not change it; the journal has the inputs of jobs"
        return warning(_AREA, check, found, f"chmod 700 {path}")
    return ok(_AREA, check, f"{path} is private to user {os.geteuid()}")


def _locality(path: Path) -> Finding:
    check = "state directory: mount"
    reason = reason_to_poll(str(path))
    if reason is not None:
        found = f"{path} is on a network mount ({reason.split()[0]})"
        advice = "locks, syncs and SQLite are not to be relied on there: use a local disk"
        return problem(_AREA, check, found, advice)
    return ok(_AREA, check, "local, and outside of the directories that others write to")


def _lock(path: Path) -> Finding:
    """Check that the directory can be locked, or report who holds the lock."""
    check = "lock"
    try:
        holder = state_holder(path)
        if holder is not None:
            return ok(_AREA, check, f"a daemon is using it: {holder.name}")
        return ok(_AREA, check, "free: no daemon is using it")
    except FileNotFoundError:
        return ok(_AREA, check, "no daemon has been here yet")
    except OSError as error:
        advice = "use a local filesystem, and a directory of the daemon's own user"
        found = f"{path / 'lock'} can't be locked: {error.strerror}"
        return problem(_AREA, check, found, advice)


def _journal(path: Path) -> Finding:
    check = "journal"
    if not path.exists():
        return ok(_AREA, check, "none yet")
    advice = "a daemon that starts keeps it under another name, and begins a new one"
    try:
        connection = open_for_reading(path)
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                return ok(_AREA, check, "it is empty")
            if version > SCHEMA_VERSION:
                found = (
                    f"{path} is of version {version}, and this wasmdrop knows versions up to"
                    f" {SCHEMA_VERSION}"
                )
                advice = "run the wasmdrop that made it, or set WASMDROP_STATE_DIR"
                return problem(_AREA, check, found, advice)
            (jobs,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return problem(_AREA, check, f"{path} can't be read: {error}", advice)
    size_mb = path.stat().st_size / MEBIBYTE
    return ok(_AREA, check, f"it can be read; {jobs} jobs in {size_mb:.1f} MiB")


def _cache(settings: Settings) -> Finding:
    count = total_bytes = 0
    for name in ("modules", "code"):
        for file in (settings.state_dir / name).rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a daemon may remove it meanwhile
                if not file.is_dir():
                    total_bytes += file.lstat().st_size
                    count += 1
    found = f"{count} files in {total_bytes / MEBIBYTE:.1f} MiB of {settings.cache_mb} MiB"
    return ok(_AREA, "cache", found)
