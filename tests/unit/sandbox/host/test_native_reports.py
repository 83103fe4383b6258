"""Unit tests of the reports of a native zygote's children, in words, and when they lie."""

import math
import struct
from typing import Any, Final

import msgspec
import pytest

from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import MESSAGE_LIMIT
from wasmdrop.sandbox.failures import TRAPS
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.native_reports import decode_native_report, is_ready
from wasmdrop.sandbox.host.reports import outcome_of_report
from wasmdrop.sandbox.memory_shares import MemoryShares
from wasmdrop.sandbox.native_wire import REPORT, Result
from wasmdrop.sandbox.wire import EngineOptions, Preparation, RunReport

PREPARATION: Final = Preparation(
    options=EngineOptions(),
    memory_export="memory",
    memory_bytes=4 << 20,
    shares=MemoryShares(4 << 20, 100, 4 << 20, 100),
    output_bytes=1000,
    fuel=None,
    has_wasi=True,
    is_component=False,
)
FUNCTION: Final = Call("run", FunctionType((), ("i32", "i64")))
COMMAND: Final = Call("_start", FunctionType(), is_command=True)


def sent(
    result: int,
    values: tuple[int, ...] = (),
    message: bytes = b"",
    frames: tuple[bytes, ...] = (),
    **numbers: Any,
) -> bytes:
    """Return a report with these numbers; the others are those of a call without effects."""
    given = {
        "trap": -1,
        "exit": 0,
        "count": len(values),
        "run": 0.5,
        "cpu": 0.25,
        "memory": 65536,
        "fuel": -1,
        "refused_memory": 0,
        "refused_table": 0,
        **numbers,
    }
    return b"".join(
        (
            REPORT.pack(result, *given.values()),
            struct.pack(f"<{len(values)}Q", *values),
            struct.pack("<I", len(message)) + message,
            struct.pack("<I", len(frames)),
            *(struct.pack("<II", 5, len(name)) + name for name in frames),
        )
    )


def report_of(data: bytes, call: Call = FUNCTION) -> RunReport:
    """Decode a report."""
    return decode_native_report(data, call, PREPARATION)


def judged(data: bytes, call: Call = FUNCTION) -> RunReport:
    """Decode a report, without its usage."""
    report = report_of(data, call)
    return msgspec.structs.replace(report, memory_bytes=None, run_seconds=0.0, cpu_seconds=0.0)


def test_report_of_a_function_has_results_and_usage() -> None:
    """Numbers are those of the child."""
    assert report_of(sent(Result.RETURNED, (7, 8), fuel=9)) == RunReport(
        Code.OK,
        results=(7, 8),
        memory_bytes=65536,
        run_seconds=0.5,
        cpu_seconds=0.25,
        fuel_used=9,
    )


def test_report_of_a_command_that_returned_has_exit_code_0() -> None:
    """As if it had called proc_exit."""
    assert judged(sent(Result.RETURNED), COMMAND) == RunReport(Code.OK, exit_code=0)
    assert judged(sent(Result.EXITED), COMMAND) == RunReport(Code.OK, exit_code=0)


@pytest.mark.parametrize(
    ("call", "exit_code"), [(FUNCTION, 0), (FUNCTION, 3), (COMMAND, 1), (COMMAND, (1 << 32) - 1)]
)
def test_report_of_another_exit_is_an_exit(call: Call, exit_code: int) -> None:
    """A function must return, so its exit is one with any code."""
    assert judged(sent(Result.EXITED, exit=exit_code), call) == RunReport(
        Code.EXIT, f"the program exited with code {exit_code}", exit_code=exit_code
    )


def test_report_of_a_trap_has_its_name_and_backtrace() -> None:
    """The innermost function comes first."""
    data = sent(Result.TRAPPED, (), b"whatever", (b"inner", b""), trap=TRAPS.index("unreachable"))
    assert judged(data) == RunReport(Code.TRAP, "unreachable\n  at inner\n  at function 5")


@pytest.mark.parametrize("number", [-1, -2, -77, len(TRAPS), 255, (1 << 31) - 1, -(1 << 31)])
def test_report_of_a_trap_without_a_known_number_has_the_text_of_wasmtime(number: int) -> None:
    """Such as that of an exception, or of a child that lies."""
    data = sent(Result.TRAPPED, (), b"first\nCaused by:\n    thrown Wasm exception", trap=number)
    report = judged(data)
    assert report.code is Code.TRAP
    assert report.message.startswith("uncaught exception: ")


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (sent(Result.TRAPPED, trap=TRAPS.index("out of fuel")), Code.FUEL_LIMIT, "used up its fu"),
        (sent(Result.OUTPUT_LIMIT), Code.OUTPUT_LIMIT, "wrote more than 1000 bytes of output"),
        (sent(Result.NO_ENTRY), Code.ENTRY_NOT_FOUND, "the module exports no function 'run'"),
        (sent(Result.FAILED, (), b"argument types"), Code.TRAP, "argument types"),
        (
            sent(Result.FAILED, (), b"first\nCaused by:\n    GC heap out of memory"),
            Code.MEMORY_LIMIT,
            "GC heap out of memory",
        ),
        (sent(Result.INTERNAL, (), b"the reason"), Code.INTERNAL, "the reason"),
        (sent(Result.STALE_CODE, (), b"another version"), Code.INTERNAL, "another version"),
    ],
)
def test_report_of_a_failure_has_its_code_and_message(data: bytes, code: Code, words: str) -> None:
    """The messages are those of the guest in Python."""
    report = judged(data)
    assert report.code is code
    assert report.message.startswith(words)


@pytest.mark.parametrize("result", list(Result))
def test_report_after_refused_growth_has_that_reason_if_it_is_a_failure(result: Result) -> None:
    """Traps and non-zero exits are its usual signs; other ends have reasons of their own."""
    data = sent(result, (), b"reason", exit=2, trap=9, refused_memory=5 << 20)
    report = judged(data)
    may_be = result in {Result.EXITED, Result.TRAPPED, Result.FAILED}
    reason = "a memory was refused growth to 5.0 MiB, and then the program ended: "
    assert report.message.startswith(reason) is may_be
    assert (report.code is Code.MEMORY_LIMIT) is may_be


@pytest.mark.parametrize(
    ("numbers", "code", "words"),
    [
        ({"refused_table": 200}, Code.MEMORY_LIMIT, "a table was refused growth to 200 elements"),
        ({"refused_memory": -1}, Code.TRAP, "a memory was refused growth past the maximum"),
        ({"refused_table": -1}, Code.TRAP, "a table was refused growth past the maximum"),
    ],
)
def test_report_after_refused_growth_tells_which_limit(
    numbers: dict[str, Any], code: Code, words: str
) -> None:
    """The limit of the job, or the maximum of the module."""
    report = judged(sent(Result.TRAPPED, trap=9, **numbers))
    assert report.code is code
    assert report.message.startswith(words)


def test_report_of_a_command_that_exited_with_0_ignores_refused_growth() -> None:
    """It handled the refusal."""
    data = sent(Result.EXITED, refused_memory=5 << 20)
    assert judged(data, COMMAND) == RunReport(Code.OK, exit_code=0)


def test_report_of_a_function_that_exited_with_0_ignores_refused_growth() -> None:
    """The exit is an error, but not for lack of memory."""
    report = judged(sent(Result.EXITED, refused_memory=5 << 20))
    assert report == RunReport(Code.EXIT, "the program exited with code 0", exit_code=0)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf])
def test_report_with_seconds_that_are_not_finite_has_zero(seconds: float) -> None:
    """A child can send any bits."""
    report = report_of(sent(Result.RETURNED, (7, 8), run=seconds, cpu=seconds))
    assert (report.run_seconds, report.cpu_seconds) == (0.0, 0.0)


@pytest.mark.parametrize("seconds", [-1.0, 1e300])
def test_report_with_impossible_seconds_is_bounded_in_the_outcome(seconds: float) -> None:
    """By the time that the daemon measured."""
    report = report_of(sent(Result.RETURNED, (7, 8), run=seconds, cpu=seconds))
    outcome = outcome_of_report(report, FUNCTION, 2.0)
    assert 0.0 <= outcome.run_seconds <= 2.0
    assert outcome.cpu_seconds is not None
    assert 0.0 <= outcome.cpu_seconds < 1e6


LIES: Final = {
    "no bytes": b"",
    "zeros": bytes(REPORT.size),
    "garbage": b"\xff" * 200,
    "unknown result": sent(len(Result)),
    "more values than bytes": sent(Result.RETURNED, count=(1 << 32) - 1),
    "further bytes": sent(Result.RETURNED, (7, 8)) + b"\0",
    "too few results": sent(Result.RETURNED, (7,)),
    "too many results": sent(Result.RETURNED, (7, 8, 9)),
    "no i32": sent(Result.RETURNED, (1 << 32, 8)),
    "negative memory": sent(Result.RETURNED, (7, 8), memory=-2),
    "too much memory": sent(Result.RETURNED, (7, 8), memory=1 << 62),
    "negative fuel": sent(Result.RETURNED, (7, 8), fuel=-2),
}


@pytest.mark.parametrize("lie", LIES)
def test_report_that_is_not_valid_is_a_failure_of_the_sandbox(lie: str) -> None:
    """And no other exception, which would end more than this job."""
    with pytest.raises(SandboxError, match="a child"):
        outcome_of_report(report_of(LIES[lie]), FUNCTION, 2.0)


@pytest.mark.parametrize("result", list(Result))
def test_report_with_extreme_numbers_and_texts_has_a_bounded_message(result: Result) -> None:
    """Whatever the kind of the result."""
    data = sent(
        result,
        message=b"\xff\x1b[31m" * 5000,
        frames=(b"\xe2\x80\xae" * 170,) * 16,
        exit=(1 << 32) - 1,
        refused_memory=(1 << 63) - 1,
        refused_table=(1 << 63) - 1,
    )
    report = report_of(data, COMMAND)
    message = outcome_of_report(report, COMMAND, 2.0).message
    assert len(message) <= MESSAGE_LIMIT
    assert message.replace("\n", "").isprintable()


def test_zygote_is_ready_only_if_it_reports_that() -> None:
    """Any other kind of report is a reason why it is not."""
    others = set(Result) - {Result.INTERNAL}
    assert [result for result in others if is_ready(sent(result))] == [Result.RETURNED]
    with pytest.raises(SandboxError, match="no such file"):
        is_ready(sent(Result.INTERNAL, message=b"no such file"))
    with pytest.raises(SandboxError, match="does not decode"):
        is_ready(b"ready")
