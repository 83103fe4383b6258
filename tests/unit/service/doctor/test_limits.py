"""Unit tests of the check of the limits of top directories."""

import pytest

from wasmdrop.service.doctor import limits
from wasmdrop.service.doctor.finding import Severity
from wasmdrop.settings import load


@pytest.mark.parametrize(
    ("environment", "severities"),
    [
        ({}, []),
        ({"WASMDROP_DIRECTORY_RUNNING": "3"}, [Severity.OK]),
        ({"WASMDROP_DIRECTORY_RUNNING": "4"}, [Severity.WARNING]),
        ({"WASMDROP_DIRECTORY_RUNNING": "4", "WASMDROP_FLEET": "nats://a"}, [Severity.OK]),
    ],
)
def test_limits_that_leave_no_worker_to_others_are_a_warning(
    environment: dict[str, str], severities: list[Severity]
) -> None:
    """A fleet has more places than this host has workers."""
    known = {"WASMDROP_STATE_DIR": "/s", "WASMDROP_WORKERS": "4", **environment}
    found = limits.examine(load(known, {}).settings)
    assert [one.status for one in found] == severities
