"""Finds out why a dropped job waits, if the daemon's journal can be read from here."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from wasmdrop import settings
from wasmdrop.client import Submission
from wasmdrop.jobs import job_facts
from wasmdrop.jobs.journal.reader import JournalReader
from wasmdrop.protocol.errors import SettingsError, StorageError


class WaitReason:
    """Reads the journal of the daemon that flags, environment and file describe."""

    def __init__(self, flags: Mapping[str, str]) -> None:
        self._state_dir: Path | None = None
        with contextlib.suppress(SettingsError):  # a producer may have no state directory
            self._state_dir = settings.load(os.environ, flags, runs_jobs=False).settings.state_dir

    def why(self, submission: Submission) -> str | None:
        """Return the reason why the job waits, in one line.

        Return None if the journal can't be read, as by most users, or does not have the job, as
        that of another daemon.
        """
        if self._state_dir is None:
            return None
        with (
            contextlib.suppress(SettingsError, StorageError),
            JournalReader(self._state_dir) as history,
        ):
            latest = history.latest(submission.slot)
            if latest is None or latest.input is None or latest.state.is_final:
                return None
            if latest.input.sha256 == submission.sha256:
                return job_facts.why(history.find(latest.id), history.first_open(submission.slot))
        return None
