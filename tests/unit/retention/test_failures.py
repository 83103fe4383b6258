"""Failures of retention: each directory is logged once a day."""

import time

import pytest
from structlog.testing import capture_logs

from wasmdrop.jobs.metrics import Metrics
from wasmdrop.retention.failures import RetentionFailures


def test_failures_of_one_directory_are_logged_once_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are counted."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    metrics = Metrics()
    failures = RetentionFailures("slot-removal-failed", metrics)
    error = PermissionError(1, "not permitted", "input-a.json")
    with capture_logs() as logs:
        for directory in ("/a", "/a", "/b"):
            failures.note(directory, error)
        now += 86_400.0
        failures.note("/a", error)
    assert [line["directory"] for line in logs] == ["/a", "/b", "/a"]
    assert {line["event"] for line in logs} == {"slot-removal-failed"}
    assert metrics.retention_failures == 4
