"""Decides which cancel files count: ``input.json.cancel`` cancels the jobs of ``input.json``.

A cancel file is never read. Only its version, time and owner matter.
"""

import contextlib
import os
import stat

from wasmdrop.intake.drops import CancelFile, DoneInput
from wasmdrop.intake.file_versions import is_same_version, is_unreadable, mtime_ns_of, pack
from wasmdrop.intake.layout import Layout
from wasmdrop.intake.taken_versions import TakenVersions
from wasmdrop.intake.untrusted_files import file_status
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import FileVersion, Slot
from wasmdrop.system import openat2
from wasmdrop.system.openat2 import Links


class CancelFiles:
    """Compares cancel files with the inputs that were ``taken``."""

    def __init__(self, layout: Layout, taken: TakenVersions) -> None:
        self._layout = layout
        self._taken = taken

    def read(self, path: str, slot: Slot) -> CancelFile | DoneInput | None:
        """Return the new version of the cancel file at ``path``; None if nothing is to be done.

        A cancel file that is older than the input cancels nothing.

        Raises ``FileNotFoundError`` if it is gone, another ``OSError`` if storage fails, and
        ``RefusedError`` if it does not count: it is no regular file, is behind a link that is not
        followed, or belongs to a user who may not remove the input.
        """
        status = file_status(self._layout.rooted(path), Code.INVALID_INPUT, Links.LAST)
        version = pack(FileVersion.of(status))
        if self._taken.get(path) == version:
            return None
        self._check_owner(path, slot, status)
        input_ = self._input_status(slot)
        known = self._taken.get(slot.input_path) or b""
        is_taken = input_ is None or is_unreadable(known) or is_same_version(known, input_)
        # Both times are by the clock of the filesystem.
        if input_ is not None and not is_taken and input_.st_ctime_ns <= status.st_ctime_ns:
            # It is for that input, too, which was not taken yet: a later scan looks at it again.
            return CancelFile(slot.key, path, None) if known else None
        if input_ is not None and is_taken:
            is_older = input_.st_ctime_ns > status.st_ctime_ns
        else:
            is_older = bool(known) and mtime_ns_of(known) > status.st_ctime_ns
        return DoneInput(path, version) if is_older else CancelFile(slot.key, path, version)

    def _check_owner(self, path: str, slot: Slot, status: os.stat_result) -> None:
        """Raise ``RefusedError`` unless the owner of the cancel file may remove the input."""
        file = self._layout.rooted(path)
        directory = openat2.status(file.root, os.path.dirname(file.relative), Links.NONE)  # noqa: PTH120 - any bytes
        is_shared = directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not is_shared or not directory.st_mode & stat.S_ISVTX:
            return  # any user with write permission can remove the input
        owners = {0, directory.st_uid}
        input_ = self._layout.rooted(slot.input_path)
        with contextlib.suppress(OSError):
            owners.add(openat2.lstat(input_.root, input_.relative).st_uid)
        # Another user may have renamed a result that the daemon wrote.
        owners.discard(os.geteuid())
        # Another user may have linked a file of the owner.
        if status.st_uid not in owners or status.st_nlink > 1:
            raise RefusedError(
                Code.INVALID_INPUT,
                f"{file.relative}: expected a cancel file of the owner of the input or of its"
                f" directory, which is sticky; found one of user {status.st_uid}",
            )

    def _input_status(self, slot: Slot) -> os.stat_result | None:
        """Return the status of the input; None if it can't be had."""
        file = self._layout.rooted(slot.input_path)
        try:
            return openat2.status(file.root, file.relative, Links.LAST)
        except OSError:
            return None
