"""The short form of the storm of kills; ``make torture`` runs the long one."""

import os
from pathlib import Path

from tests.support.durability.storm import storm


def test_storm_of_kills_loses_doubles_and_tears_nothing(tmp_path: Path, guest: str) -> None:
    """Eight kills while five hundred jobs are dropped, dropped again, removed and renamed."""
    seed = int(os.environ.get("WASMDROP_TORTURE_SEED", "1"))
    report = storm(tmp_path, seed, kills=8, jobs=500, guest=guest)
    print(report)  # noqa: T201 - with a failure, what led to it
    assert report.findings == []
    assert report.kills >= 8
    assert report.jobs >= 500
    assert (report.native_modules > 0) is (guest == "native")


def test_storm_with_all_controls_also_forgets_no_event_and_loses_no_input(tmp_path: Path) -> None:
    """Cancellation, retention, a hook, limits and the page, with four kills."""
    seed = int(os.environ.get("WASMDROP_TORTURE_SEED", "1"))
    report = storm(tmp_path, seed, kills=4, jobs=200, has_controls=True)
    print(report)  # noqa: T201 - with a failure, what led to it
    assert report.findings == []
