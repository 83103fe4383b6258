"""Check that the directories that jobs may request exist and that jobs can read them."""

import os
from itertools import islice
from pathlib import Path
from typing import Final

from wasmdrop.service.doctor.finding import Finding, ok, problem, warning
from wasmdrop.settings import Settings

_AREA: Final = "grants"

#: Entries checked in each: enough to find a wrong mode, few enough for a large data set.
_MOST_CHECKED: Final = 1000


def examine(settings: Settings) -> list[Finding]:
    """Check each grant."""
    return [_examine(name, path) for name, path in settings.grants.items()]


def _examine(grant: str, path: Path) -> Finding:
    name = f"grant {grant}"
    if not path.is_dir():
        found = f"{path} is not a directory" if path.exists() else f"{path} is not there"
        return problem(_AREA, name, found, "make or mount it, or set WASMDROP_GRANTS")
    if not _can_be_read(path):
        who = "any user" if os.geteuid() == 0 else f"user {os.geteuid()}"
        found = f"{path} can't be read by jobs, which are confined to what {who} may read"
        return problem(_AREA, name, found, f"chmod a+rx {path}")
    try:
        hidden = [
            entry for entry in islice(path.iterdir(), _MOST_CHECKED) if not _can_be_read(entry)
        ]
    except OSError as error:
        return problem(_AREA, name, f"{path}: {error.strerror}", f"chmod a+rx {path}")
    if hidden:
        found = f"{len(hidden)} entries can't be read by jobs, such as {hidden[0]}"
        return warning(_AREA, name, found, f"chmod -R a+rX {path}")
    return ok(_AREA, name, f"{path} can be read")


def _can_be_read(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return True  # gone, or a dangling link
    except OSError:
        return False
    is_directory = path.is_dir()
    if os.geteuid() != 0:
        return os.access(path, os.R_OK | (os.X_OK if is_directory else 0))
    # The jobs of root's daemon run as a user that owns no files.
    needed = 0o5 if is_directory else 0o4
    return mode & needed == needed
