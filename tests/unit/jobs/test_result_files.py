"""Result files and markers are encoded as the protocol says."""

import json
from typing import Any

import pytest

from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs.job import Job
from wasmdrop.jobs.result_files import encode_result_files, package
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.marker import parse_marker
from wasmdrop.protocol.outcome import (
    DETERMINISTIC_CLOCK_NS,
    DETERMINISTIC_PROFILE,
    DETERMINISTIC_SEED,
    Code,
    Outcome,
)
from wasmdrop.protocol.slot import Slot

OK = Outcome(code=Code.OK, results=(144,))
PRINTED = Outcome(code=Code.EXIT, exit_code=3, is_command=True, stdout=b"x", stderr=b"")
TRAP = Outcome(code=Code.TRAP, message="unreachable\nbacktrace")


def packed(outcome: Outcome, finished_at_ns: int, *, is_deterministic: bool) -> ResultPackage:
    """Return the results of a job that ended then."""
    job = Job(
        id="j",
        slot=Slot("input.json", "/s/input.json", "/s", "result"),
        dropped_at_ns=1,
        finished_at_ns=finished_at_ns,
    )
    return package(job, "run", [1], outcome, Limits(), is_deterministic=is_deterministic)


@pytest.mark.parametrize("outcome", [OK, PRINTED, TRAP], ids=["ok", "exit", "trap"])
def test_result_files_of_deterministic_job_do_not_depend_on_the_time(outcome: Outcome) -> None:
    """They are those that anyone gets from the outcome and the start of the job's clock."""
    first = packed(outcome, 2_000_000_000, is_deterministic=True)
    second = packed(outcome, 3_000_000_000, is_deterministic=True)
    assert first.files == second.files
    assert first.files == encode_result_files("run", [1], outcome, DETERMINISTIC_CLOCK_NS)
    assert first.files[".txt"].startswith(b"timestamp: 2000-01-01T00:00:00Z\n")


def test_result_text_of_other_job_has_the_time_of_its_end() -> None:
    """In UTC, to the second."""
    text = packed(OK, 1_700_000_000_500_000_000, is_deterministic=False).files[".txt"]
    assert text == b"timestamp: 2023-11-14T22:13:20Z\nresult: 144\n144\n"


def test_marker_of_deterministic_job_names_its_rules() -> None:
    """The clock in the marker is the timestamp of ``result.txt``."""
    results = packed(OK, 2_000_000_000, is_deterministic=True)
    marker: dict[str, Any] = json.loads(results.marker)
    assert marker["deterministic"] == {
        "seed": DETERMINISTIC_SEED,
        "clock": results.files[".txt"].split()[1].decode(),
        "profile": DETERMINISTIC_PROFILE,
    }
    assert json.loads(packed(OK, 1, is_deterministic=False).marker)["deterministic"] is None


def test_marker_without_profile_is_read_as_of_unknown_rules() -> None:
    """Earlier versions wrote none."""
    marker = json.loads(packed(OK, 2_000_000_000, is_deterministic=True).marker)
    del marker["deterministic"]["profile"]
    parsed = parse_marker(json.dumps(marker).encode())
    assert parsed is not None
    assert parsed.deterministic is not None
    assert parsed.deterministic.profile is None
