"""Report directories in which retention fails, each once a day."""

import errno
import os
import time
from collections import OrderedDict
from typing import Final

import structlog

from wasmdrop.jobs.metrics import Metrics

_log = structlog.get_logger()

_DAY_SECONDS: Final = 86_400.0

#: Most directories that are remembered.
_MAX_DIRECTORIES: Final = 1024


class RetentionFailures:
    """Counts failures, and logs the first one of each directory and day as ``event``."""

    def __init__(self, event: str, metrics: Metrics) -> None:
        self._event = event
        self._metrics = metrics
        self._logged: OrderedDict[str, float] = OrderedDict()
        """When a directory was logged last, by the monotonic clock in seconds."""

    def note_hanging(self, directory: str) -> None:
        """Note that the mount of ``directory`` does not answer."""
        reason = OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), directory)
        self.note(directory, reason)

    def note(self, directory: str, error: OSError) -> None:
        """Note that files in ``directory`` could not be moved or removed."""
        self._metrics.retention_failures += 1
        now = time.monotonic()
        logged_at = self._logged.get(directory)
        if logged_at is not None and now - logged_at < _DAY_SECONDS:
            return
        self._logged[directory] = now
        self._logged.move_to_end(directory)
        if len(self._logged) > _MAX_DIRECTORIES:
            self._logged.popitem(last=False)
        _log.warning(self._event, directory=directory, error=str(error))
