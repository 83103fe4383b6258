"""Events of finished jobs, as the journal gives them to a hook."""

import json
from typing import Any, Final

from tests.support.markers import a_marker
from wasmdrop.jobs.journal.events import Event

#: A file that the marker of an event names.
_FILES: Final = {"result.json": {"sha256": "0" * 64, "bytes": 1}}


def an_event(job_id: str = "job-1", slot: str = "input.json", failures: int = 0) -> Event:
    """Return the event of a job that succeeded."""
    marker: dict[str, Any] = a_marker(_FILES, job=job_id, slot="input.json")
    path = f"/shared/{slot}".replace("input", "result").replace(".json", ".done")
    return Event(job_id, slot, path, json.dumps(marker).encode(), 1, failures)
