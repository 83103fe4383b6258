"""Check that the daemon may move or remove finished inputs, if it is to do so."""

import os
import stat

from wasmdrop.intake.layout import RootedPath
from wasmdrop.intake.tree_walk import walk
from wasmdrop.service.doctor.finding import Finding, ok, warning
from wasmdrop.settings import AfterMode, Settings

_AREA = "mounts"
_CHECK = "finished inputs"


def examine(settings: Settings) -> list[Finding]:
    """Check the rights in the directories below the shared one."""
    if settings.after is AfterMode.KEEP and settings.keep_results_days is None:
        return []
    refused: list[str] = []

    def look(path: str, fd: int) -> None:
        if not _may_rename(fd):
            refused.append(path)

    if settings.shared_dir.is_dir():
        place = RootedPath(str(settings.shared_dir), "")
        for _batch in walk(place, settings.max_depth, lambda _path: False, look):
            pass
    if not refused:
        return [ok(_AREA, _CHECK, "the daemon may move and remove them")]
    found = f"those of other users stay in {len(refused)} directories, such as {refused[0]}"
    advice = (
        "let the daemon's user write there, without the sticky bit (chmod -t), or set"
        " WASMDROP_AFTER=keep"
    )
    return [warning(_AREA, _CHECK, found, advice)]


def _may_rename(fd: int) -> bool:
    """Whether this user may rename files of other users in a directory."""
    if not os.access(f"/proc/self/fd/{fd}", os.W_OK | os.X_OK):
        return False
    status = os.fstat(fd)
    return not status.st_mode & stat.S_ISVTX or os.geteuid() in {0, status.st_uid}
