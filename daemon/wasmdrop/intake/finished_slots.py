"""Reads completion markers back, to learn which job a slot finished last.

Everyone who can write to the slot can forge its marker. The size of what is read is bounded.
"""

import errno
import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from wasmdrop.intake.layout import RootedPath
from wasmdrop.intake.untrusted_files import ChangedWhileReadError, read_file
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.marker import MAX_MARKER_BYTES, Marker, parse_slot_marker
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.slot import MARKER_SUFFIX, InputFile, Slot
from wasmdrop.system import openat2
from wasmdrop.system.openat2 import Links

#: Largest file whose digest is checked; for others only the size is. A hostile slot may hold any
#: number of large files that take no space on the disk.
_DIGESTED_BYTES: Final = 1 << 20


class FoundMarker(NamedTuple):
    """A marker in a slot, with the content of its file."""

    marker: Marker
    data: bytes


def true_marker(slot: Slot) -> Marker | None:
    """Return the marker in a slot; None if there is none or the files do not agree with it.

    Each file must have the size in the marker; ``result.json`` and ``result.txt`` must have their
    digests, unless they are large.
    """
    found = read_true_marker(slot)
    return None if found is None else found.marker


def read_true_marker(slot: Slot, owner: int | None = None) -> FoundMarker | None:
    """Return the marker as :func:`true_marker` does, with the content of its file.

    None also if its file does not belong to the user ``owner``.
    """

    def admit(status: os.stat_result) -> None:
        if owner is not None and status.st_uid != owner:
            raise PermissionError(errno.EPERM, "belongs to another user")

    try:
        data = _read(slot, slot.stem + MARKER_SUFFIX, MAX_MARKER_BYTES, admit)
        marker = parse_slot_marker(data, slot.stem)
        if marker is None:
            return None
        root, relative = slot.result_location
        for name, file in marker.files.items():
            if openat2.lstat(root, f"{relative}/{name}".lstrip("/")).st_size != file.bytes:
                return None
        for suffix in (".json", ".txt"):
            name = slot.stem + suffix
            claimed = marker.files[name]
            if claimed.bytes <= _DIGESTED_BYTES:
                digest = hashlib.sha256(_read(slot, name, _DIGESTED_BYTES)).hexdigest()
                if digest != claimed.sha256:
                    return None
    except (OSError, RefusedError, ChangedWhileReadError, ValueError):
        return None  # no job wrote this
    return FoundMarker(marker, data)


def is_done(slot: Slot, input_: InputFile, mtime_ns: int) -> bool:
    """Return whether the slot's marker says that this input was done. Used if the journal is lost.

    The same bytes written again later are another drop. A job that found no module is not done,
    because no journal would rerun it when the module arrives.
    """
    marker = true_marker(slot)
    if marker is None or marker.input is None or marker.code == Code.MODULE_MISSING:
        return False
    written_at = datetime.fromtimestamp(mtime_ns / 1e9, UTC)
    # An input that the daemon can read now is another one than the one that it could not read.
    was_readable, is_readable = marker.input.sha256 is not None, input_.sha256 is not None
    is_same = was_readable == is_readable and marker.is_of_input(
        input_.sha256, input_.size_bytes, mtime_ns
    )
    return is_same and written_at <= marker.dropped_at


def _read(
    slot: Slot,
    name: str,
    max_bytes: int,
    admit: Callable[[os.stat_result], None] = lambda _status: None,
) -> bytes:
    root, relative = slot.result_location
    file = RootedPath(root, f"{relative}/{name}".lstrip("/"))
    return read_file(file, max_bytes, Code.INVALID_INPUT, Links.NONE, admit).data
