"""What the daemon makes of a child's word: bounds of what it can't check, and words for limits."""

import math
import os
import signal
import struct

import pytest

from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.text import MESSAGE_LIMIT
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.reports import (
    compiler_death,
    decode_binary_report,
    outcome_of_report,
    outcome_without_report,
    with_limit,
)
from wasmdrop.sandbox.wire import RunReport

_CALL = Call("run", FunctionType())
_MOST = 1.0 + 2.0 * (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("told", "believed"), [(0.5, 0.5), (-1.0, 0.0), (1e300, _MOST), (0.0, 0.0)]
)
def test_processor_time_is_believed_as_far_as_it_can_be(told: float, believed: float) -> None:
    """A job of 2 s has no more than all processors have in that time, however it is told."""
    report = RunReport(Code.OK, cpu_seconds=told)
    assert outcome_of_report(report, _CALL, 2.0).cpu_seconds == believed
    assert outcome_without_report(9, Limits(), 2.0, told).cpu_seconds == believed
    plain = decode_binary_report(struct.pack("<ddqq", 0.0, told, -1, -1), FunctionType())
    assert outcome_of_report(plain, _CALL, 2.0).cpu_seconds == believed


@pytest.mark.parametrize("told", [math.nan, math.inf, -math.inf])
def test_processor_time_that_is_no_number_is_none(told: float) -> None:
    """A child can send any bits."""
    plain = decode_binary_report(struct.pack("<ddqq", 0.0, told, -1, -1), FunctionType())
    assert outcome_of_report(plain, _CALL, 2.0).cpu_seconds == 0.0


def test_processor_time_of_a_killed_job_may_be_unknown() -> None:
    """If the forking process died, nobody has told it."""
    assert outcome_without_report(None, Limits(), 2.0, None).cpu_seconds is None


@pytest.mark.parametrize("rest", ["", "\n  at f", "\n" + "x" * MESSAGE_LIMIT])
@pytest.mark.parametrize("first", ["wrote too much", "x" * (MESSAGE_LIMIT - 1)])
def test_the_limit_is_in_the_first_line_of_a_message_of_any_length(first: str, rest: str) -> None:
    """It is what to do about it; the guest's words make room."""
    outcome = Outcome(code=Code.OUTPUT_LIMIT, message=first + rest)
    message = with_limit(outcome, Limits(output_mb=2.5)).message
    told = " (limit: 2.5 MiB; output_mb in the input, at most WASMDROP_OUTPUT_MB of the daemon)"
    assert message.partition("\n")[0].endswith(told)
    assert message.startswith(first[:100])
    assert len(message) <= MESSAGE_LIMIT


@pytest.mark.parametrize("code", [Code.OK, Code.TRAP, Code.EXIT, Code.CRASHED, Code.INTERNAL])
def test_the_message_of_another_end_stays(code: Code) -> None:
    """No limit had a part in it."""
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
def test_the_end_of_a_compiler_names_its_limit(status: int | None, words: str) -> None:
    """The setting and its value."""
    assert words in compiler_death(status, 60.0, 2048)
