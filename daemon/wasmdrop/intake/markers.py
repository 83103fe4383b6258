"""Reads completion markers back: what a slot itself says of the job that was done last."""

import hashlib
from datetime import UTC, datetime

from wasmdrop.errors import RefusedError
from wasmdrop.intake.reader import ChangedWhileReadError, read_regular
from wasmdrop.job import Slot
from wasmdrop.marker import Marker, parse_marker
from wasmdrop.outcome import Code
from wasmdrop.suffixes import MARKER_SUFFIX

__all__ = ["is_done", "true_marker"]

#: Largest marker or result file that is read back.
_MAX_BYTES = 1 << 30


def true_marker(slot: Slot) -> Marker | None:
    """Return the marker in a slot; None where there is none, or one that is not true.

    Anybody may have written it: it is believed where every file that it names is as it says.
    """
    try:
        marker = parse_marker(_read(slot, slot.stem + MARKER_SUFFIX))
        if marker is None or f"{slot.stem}.json" not in marker.files:
            return None
        are_true = all(
            hashlib.sha256(_read(slot, name)).hexdigest() == file.sha256
            for name, file in marker.files.items()
        )
    except (OSError, RefusedError, ChangedWhileReadError, ValueError):
        return None  # whatever lies there is not what a job wrote
    return marker if are_true else None


def is_done(slot: Slot, sha256: str, mtime_ns: int) -> bool:
    """Whether the slot's own marker says that this input was done, for want of a journal.

    The same bytes written again later are a drop of their own. A job that found no module is not
    done: nobody remembers to run it when there is one.
    """
    marker = true_marker(slot)
    if marker is None or marker.input is None or marker.code == Code.MODULE_MISSING:
        return False
    written_at = datetime.fromtimestamp(mtime_ns / 1e9, UTC)
    return marker.input.sha256 == sha256 and written_at <= marker.dropped_at


def _read(slot: Slot, name: str) -> bytes:
    return read_regular(slot.directory, name, _MAX_BYTES, Code.INVALID_INPUT).data
