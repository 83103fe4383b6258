"""Unit tests of the reports of native children: what the daemon makes of their numbers."""

import math

import pytest

from tests.support.native_reports import report_frame
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.native_reports import decode_native_report, is_ready
from wasmdrop.sandbox.memory_shares import MemoryShares
from wasmdrop.sandbox.native_wire import Result
from wasmdrop.sandbox.wire import FRAME, EngineOptions, Preparation, RunReport

CALL = Call("run", FunctionType())
COMMAND = Call("_start", FunctionType(), is_command=True)
PREPARATION = Preparation(
    options=EngineOptions(),
    memory_export="memory",
    memory_bytes=16 * MEBIBYTE,
    shares=MemoryShares(16 * MEBIBYTE, 0, 16 * MEBIBYTE, 0),
    output_bytes=1000,
    fuel=None,
    has_wasi=True,
    is_component=False,
)


def decoded(frame: bytes, call: Call = CALL) -> RunReport:
    """Return the report in a frame."""
    return decode_native_report(frame[FRAME.size :], call, PREPARATION)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf])
def test_time_that_is_not_finite_is_zero(seconds: float) -> None:
    """A child can send any bits."""
    report = decoded(report_frame(numbers=(seconds, seconds, -1, -1, 0, 0)))
    assert (report.run_seconds, report.cpu_seconds) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("call", "code", "reported"),
    [(COMMAND, 0, Code.OK), (COMMAND, 7, Code.EXIT), (CALL, 0, Code.EXIT), (CALL, 7, Code.EXIT)],
)
def test_exit_of_a_command_with_0_is_a_success(call: Call, code: int, reported: Code) -> None:
    """Any other exit is a failure, also that of a function."""
    report = decoded(report_frame(result=Result.EXITED, exit_code=code), call)
    assert (report.code, report.exit_code) == (reported, code)


def test_end_of_a_command_without_an_exit_is_that_with_0() -> None:
    """Its entry returned."""
    assert decoded(report_frame(), COMMAND) == RunReport(Code.OK, exit_code=0)


@pytest.mark.parametrize("number", [-77, -2, 17, 1 << 30])
def test_trap_of_unknown_number_has_the_text_of_the_engine(number: int) -> None:
    """A later version has more traps, and a child can send any number."""
    report = decoded(report_frame(result=Result.TRAPPED, trap=number, message=b"some trap"))
    assert (report.code, report.message) == (Code.TRAP, "some trap")


@pytest.mark.parametrize("size", range(len(report_frame(7)) - FRAME.size))
def test_report_that_is_cut_is_a_fault_of_the_sandbox(size: int) -> None:
    """At any byte."""
    with pytest.raises(SandboxError, match="does not decode"):
        decode_native_report(report_frame(7)[FRAME.size :][:size], CALL, PREPARATION)


@pytest.mark.parametrize("result", Result)
def test_zygote_is_ready_if_its_preparation_returned(result: Result) -> None:
    """Any other report is the reason why it is not."""
    body = report_frame(result=result)[FRAME.size :]
    assert is_ready(body) is (result is Result.RETURNED)
