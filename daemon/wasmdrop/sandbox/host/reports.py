"""What is made of a child that reported, or died: its word is checked, its death explained.

A child may be a guest's. Its report is bounded, decoded into fixed types and held against what was
asked of it; a lie ends as the sandbox's failure, never as anything else.
"""

import math
import os
import signal
from typing import Final, NamedTuple, TypeVar

import msgspec

from wasmdrop.protocol.component_values import decode_result
from wasmdrop.protocol.core_values import decode_results
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.text import MESSAGE_LIMIT, bounded_text
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.wire import BINARY_REPORT, BINARY_VALUE_BYTES, CompileReport, RunReport

__all__ = [
    "compiler_death",
    "decode_binary_report",
    "decode_compile_report",
    "decode_run_report",
    "outcome_of_report",
    "outcome_without_report",
    "with_limit",
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


class _Setting(NamedTuple):
    """Where a limit is set."""

    key: str
    """Of the input, and of :class:`Limits`."""
    unit: str
    variable: str


_SETTINGS: Final = {
    Code.TIMEOUT: _Setting("timeout_sec", " s", "TIMEOUT_SEC"),
    Code.MEMORY_LIMIT: _Setting("memory_mb", " MiB", "WASMDROP_MEMORY_MB"),
    Code.OUTPUT_LIMIT: _Setting("output_mb", " MiB", "WASMDROP_OUTPUT_MB"),
    Code.DISK_LIMIT: _Setting("disk_mb", " MiB", "WASMDROP_DISK_MB"),
    Code.FUEL_LIMIT: _Setting("fuel", "", "WASMDROP_FUEL"),
}

_WIDE: Final = frozenset({"i64", "f64"})

#: Processor time that a child may have taken before its job, to be ready for it.
_IDLE_SECONDS: Final = 1.0

_Report = TypeVar("_Report", RunReport, CompileReport)

_run_decoder = msgspec.json.Decoder(RunReport)
_compile_decoder = msgspec.json.Decoder(CompileReport)


def decode_run_report(header: bytes) -> RunReport:
    """Return the report of a run; ``SandboxError`` where it is none."""
    return _decode(header, _run_decoder)


def decode_binary_report(data: bytes, signature: FunctionType) -> RunReport:
    """Return the report of a plain function, which has all the bytes that it must have."""
    run_seconds, cpu_seconds, memory_bytes, fuel_used = BINARY_REPORT.unpack_from(data)
    bits = (
        int.from_bytes(data[start : start + (8 if kind in _WIDE else 4)], "little")
        for kind, start in zip(
            signature.results, range(BINARY_REPORT.size, len(data), BINARY_VALUE_BYTES), strict=True
        )
    )
    return RunReport(
        Code.OK,
        results=tuple(bits),
        memory_bytes=None if memory_bytes == -1 else memory_bytes,
        run_seconds=run_seconds if math.isfinite(run_seconds) else 0.0,
        cpu_seconds=cpu_seconds if math.isfinite(cpu_seconds) else 0.0,
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
        cpu_seconds=_believable(report.cpu_seconds, seconds),
    )


def with_limit(outcome: Outcome, limits: Limits) -> Outcome:
    """Return the outcome; if it is one of a limit, its message says which, and who sets it."""
    setting = _SETTINGS.get(outcome.code)
    value = None if setting is None else getattr(limits, setting.key)
    if setting is None or value is None:
        return outcome
    first, newline, rest = outcome.message.partition("\n")
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    told = (
        f" (limit: {shown}{setting.unit}; {setting.key} in the input, at most {setting.variable} of"
        " the daemon)"
    )
    message = bounded_text(f"{first[: MESSAGE_LIMIT - len(told) - 2]}{told}{newline}{rest}")
    return msgspec.structs.replace(outcome, message=message)


def _results(report: RunReport, call: Call) -> tuple[object, ...]:
    """Return the results as JSON values; ``ValueError`` where they are not of their types."""
    if call.component is None:
        return tuple(decode_results(report.results, call.signature.results))
    form = call.component.function.result
    if form is None or call.is_command:
        return ()
    return (decode_result(report.component_result, form),)


def outcome_without_report(
    status: int | None, limits: Limits, seconds: float, cpu_seconds: float | None
) -> Outcome:
    """Return the outcome of a child that died with this wait status; None: at its timeout.

    ``cpu_seconds`` is the processor time of the process, if its parent told it.
    """
    code, message = _death_of_job(status, limits)
    if cpu_seconds is not None:
        cpu_seconds = _believable(cpu_seconds, seconds)
    return Outcome(code=code, message=message, run_seconds=seconds, cpu_seconds=cpu_seconds)


def _believable(cpu_seconds: float, seconds: float) -> float:
    """Bound what a child, or a parent that may be a guest's, says of processor time."""
    return min(max(cpu_seconds, 0.0), _IDLE_SECONDS + seconds * (os.cpu_count() or 1))


def _death_of_job(status: int | None, limits: Limits) -> tuple[Code, str]:
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return Code.TIMEOUT, f"ran longer than {limits.timeout_sec:g} s"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        return Code.SANDBOX_VIOLATION, "made a system call that the sandbox forbids"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXFSZ:
        message = f"wrote a file of more than {limits.disk_bytes} bytes into its directory"
        return Code.DISK_LIMIT, message
    return Code.CRASHED, f"the job's process {_death(status)} before it could report"


def compiler_death(status: int | None, seconds: float, memory_mb: int) -> str:
    """Say what ended a compilation with these limits."""
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return f"compiling took longer than {seconds:g} s (WASMDROP_COMPILE_SEC)"
    # Where an allocation fails the compiler aborts, and has no other way to say so.
    limit = f"{memory_mb} MiB of memory (WASMDROP_COMPILE_MEMORY_MB)"
    return f"the compiler ran out of its {limit}, or {_death(status)}"


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
