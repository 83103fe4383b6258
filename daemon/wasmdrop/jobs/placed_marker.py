"""Finds out whether the results of a job are in place: by the marker in its slot.

Used after a restart, and if kept results are lost. Users who can write to the slot can forge its
marker.
"""

import os
from pathlib import Path

from wasmdrop.intake.finished_slots import read_true_marker
from wasmdrop.jobs.job import Job
from wasmdrop.protocol.marker import Marker, printable
from wasmdrop.system.durable_files import sync_directory


def placed_marker(job: Job, *, is_for_event: bool = False) -> bytes | None:
    """Return the content of the marker of this very job if it is in its slot, durably, and is true.

    ``is_for_event``: the completion hook passes it on in the name of the daemon. So its file must
    also belong to the daemon's user, and it must agree with the journal. Returns None otherwise.
    """
    found = read_true_marker(job.slot, os.geteuid() if is_for_event else None)
    if found is None or found.marker.job != job.id:
        return None
    if is_for_event and not _agrees(found.marker, job):
        return None
    try:
        # The daemon that wrote it may have died before the sync.
        root, relative = job.slot.result_location
        sync_directory(Path(root), relative)
    except OSError:
        return None
    return found.data


def _agrees(marker: Marker, job: Job) -> bool:
    if marker.slot != printable(job.slot.key).decode():
        return False
    if (marker.input is None) != (job.input is None):
        return False
    if marker.input is not None and job.input is not None:
        its_input = (marker.input.sha256, marker.input.bytes)
        if its_input != (job.input.sha256, job.input.size_bytes):
            return False
    # The journal may lack the end: a job that ran is published before that is durable.
    return job.code is None or marker.code is job.code
