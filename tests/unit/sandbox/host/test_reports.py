"""Unit tests of reports: the limits of what the daemon believes, and messages of limits."""

import os
import signal

import pytest

from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.text import MESSAGE_LIMIT
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.reports import (
    compiler_death,
    outcome_of_report,
    outcome_without_report,
    with_limit,
)
from wasmdrop.sandbox.wire import RunReport

_CALL = Call("run", FunctionType())
_MOST = 1.0 + 2.0 * (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("reported", "expected"), [(0.5, 0.5), (-1.0, 0.0), (1e300, _MOST), (0.0, 0.0)]
)
def test_processor_time_above_the_possible_is_limited(reported: float, expected: float) -> None:
    """A job of 2 s has at most the time of all processors, whether it reported or not."""
    report = RunReport(Code.OK, cpu_seconds=reported)
    assert outcome_of_report(report, _CALL, 2.0).cpu_seconds == expected
    assert outcome_without_report(9, Limits(), 2.0, reported).cpu_seconds == expected


def test_processor_time_of_a_killed_job_without_status_is_unknown() -> None:
    """The process that forked it may have died."""
    assert outcome_without_report(None, Limits(), 2.0, None).cpu_seconds is None


@pytest.mark.parametrize("rest", ["", "\n  at f", "\n" + "x" * MESSAGE_LIMIT])
@pytest.mark.parametrize("first", ["wrote too much", "x" * (MESSAGE_LIMIT - 1)])
def test_message_of_any_length_has_the_limit_in_its_first_line(first: str, rest: str) -> None:
    """It says what to do; the guest's part is cut instead."""
    outcome = Outcome(code=Code.OUTPUT_LIMIT, message=first + rest)
    message = with_limit(outcome, Limits(output_mb=2.5)).message
    reported = " (limit: 2.5 MiB; output_mb in the input, at most WASMDROP_OUTPUT_MB of the daemon)"
    assert message.partition("\n")[0].endswith(reported)
    assert message.startswith(first[:100])
    assert len(message) <= MESSAGE_LIMIT


@pytest.mark.parametrize("code", [Code.OK, Code.TRAP, Code.EXIT, Code.CRASHED, Code.INTERNAL])
def test_message_of_another_code_is_unchanged(code: Code) -> None:
    """No limit caused it."""
    outcome = Outcome(code=code, message="as it was")
    assert with_limit(outcome, Limits()) is outcome


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "compiling took longer than 60 s (WASMDROP_COMPILE_SEC)"),
        (signal.SIGXCPU, "compiling took longer than 60 s (WASMDROP_COMPILE_SEC)"),
        (signal.SIGABRT, "ran out of its 2048 MiB of memory (WASMDROP_COMPILE_MEMORY_MB), or died"),
    ],
)
def test_message_of_a_compiler_death_names_its_limit(status: int | None, words: str) -> None:
    """With the setting and its value."""
    assert words in compiler_death(status, 60.0, 2048)
