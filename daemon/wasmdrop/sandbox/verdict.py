"""What is made of a child that reported, or died: its word is checked, its death explained.

A child may be a guest's. Its report is bounded, decoded into fixed types and held against what was
asked of it; a lie ends as the sandbox's failure, never as anything else.
"""

import math
import os
import signal
from typing import Final, TypeVar

import msgspec

from wasmdrop.errors import SandboxError
from wasmdrop.limits import Limits
from wasmdrop.module import FunctionType
from wasmdrop.outcome import Code, Outcome, bounded_text
from wasmdrop.sandbox.call import Call
from wasmdrop.sandbox.messages import (
    PLAIN_REPORT,
    PLAIN_VALUE_BYTES,
    CompileReport,
    RunReport,
)
from wasmdrop.values import decode_results
from wasmdrop.wit import decode_result

__all__ = [
    "compiler_death",
    "decode_compile_report",
    "decode_plain_report",
    "decode_run_report",
    "outcome_of_death",
    "outcome_of_report",
]

#: The ends that a running child may report. Others are the daemon's to say.
_GUEST_CODES: Final = frozenset(
    {
        Code.OK,
        Code.EXIT,
        Code.TRAP,
        Code.MEMORY_LIMIT,
        Code.FUEL_LIMIT,
        Code.OUTPUT_LIMIT,
        Code.LINK_ERROR,
        Code.ENTRY_NOT_FOUND,
        Code.INTERNAL,
    }
)

_WIDE: Final = frozenset({"i64", "f64"})

_Report = TypeVar("_Report", RunReport, CompileReport)

_run_decoder = msgspec.json.Decoder(RunReport)
_compile_decoder = msgspec.json.Decoder(CompileReport)


def decode_run_report(header: bytes) -> RunReport:
    """Return the report of a run; ``SandboxError`` where it is none."""
    return _decode(header, _run_decoder)


def decode_plain_report(data: bytes, signature: FunctionType) -> RunReport:
    """Return the report of a plain function, which has all the bytes that it must have."""
    run_seconds, memory_bytes, fuel_used = PLAIN_REPORT.unpack_from(data)
    bits = (
        int.from_bytes(data[start : start + (8 if kind in _WIDE else 4)], "little")
        for kind, start in zip(
            signature.results, range(PLAIN_REPORT.size, len(data), PLAIN_VALUE_BYTES), strict=True
        )
    )
    return RunReport(
        Code.OK,
        results=tuple(bits),
        memory_bytes=None if memory_bytes == -1 else memory_bytes,
        run_seconds=run_seconds if math.isfinite(run_seconds) else 0.0,
        fuel_used=None if fuel_used == -1 else fuel_used,
    )


def decode_compile_report(header: bytes) -> CompileReport:
    """Return the report of a compilation; ``SandboxError`` where it is none."""
    return _decode(header, _compile_decoder)


def outcome_of_report(report: RunReport, call: Call, seconds: float) -> Outcome:
    """Return the outcome that a child reported after ``seconds``.

    Raises ``SandboxError`` where it says what is not its to say, or what can't be.
    """
    code = report.code
    if code not in _GUEST_CODES:
        raise SandboxError(f"a child reported {code}, which is not its to say")
    results: tuple[object, ...] | None = None
    if code is Code.OK:
        try:
            results = _results(report, call)
        except (OverflowError, ValueError, RecursionError) as error:
            raise SandboxError(f"a child reported results of another entry: {error}") from None
    exit_code = report.exit_code
    if exit_code is not None and not 0 <= exit_code < 1 << 32:
        raise SandboxError("a child reported an exit code that there is none of")
    memory_bytes = report.memory_bytes
    if memory_bytes is not None and not 0 <= memory_bytes < 1 << 48:
        raise SandboxError("a child reported a memory of a size that there is none of")
    fuel_used = report.fuel_used
    if fuel_used is not None and not 0 <= fuel_used < 1 << 64:
        raise SandboxError("a child reported fuel that there is none of")
    return Outcome(
        code=code,
        message=bounded_text(report.message),
        fuel_used=fuel_used,
        results=results,
        exit_code=exit_code,
        peak_memory_bytes=memory_bytes,
        run_seconds=min(max(report.run_seconds, 0.0), seconds),
    )


def _results(report: RunReport, call: Call) -> tuple[object, ...]:
    """Return the results as JSON values; ``ValueError`` where they are not of their types."""
    if call.component is None:
        return tuple(decode_results(report.results, call.signature.results))
    form = call.component.function.result
    if form is None or call.is_command:
        return ()
    return (decode_result(report.plain, form),)


def outcome_of_death(status: int | None, limits: Limits, seconds: float) -> Outcome:
    """Return the outcome of a child that died with this wait status; None: at its timeout."""
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        message = f"ran longer than {limits.timeout_sec:g} s"
        return Outcome(code=Code.TIMEOUT, message=message, run_seconds=seconds)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        message = "made a system call that the sandbox forbids"
        return Outcome(code=Code.SANDBOX_VIOLATION, message=message, run_seconds=seconds)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXFSZ:
        message = f"wrote a file of more than {limits.disk_bytes} bytes into its directory"
        return Outcome(code=Code.DISK_LIMIT, message=message, run_seconds=seconds)
    message = f"the job's process {_death(status)} before it could report"
    return Outcome(code=Code.CRASHED, message=message, run_seconds=seconds)


def compiler_death(status: int | None, seconds: float, memory_mb: int) -> str:
    """Say what ended a compilation with these limits."""
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return f"compiling took longer than {seconds:g} s"
    # Where an allocation fails the compiler aborts, and has no other way to say so.
    return f"the compiler ran out of its {memory_mb} MiB of memory, or {_death(status)}"


def _death(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"died of signal {number} ({signal.strsignal(number)})"
    return f"exited with {os.waitstatus_to_exitcode(status)}"


def _decode(header: bytes, decoder: msgspec.json.Decoder[_Report]) -> _Report:
    try:
        return decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SandboxError(f"a child's report does not decode: {error}") from None
