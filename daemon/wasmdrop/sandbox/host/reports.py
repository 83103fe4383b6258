"""The outcome of a job from its child's report or death.

A guest may have taken over the child. So the report has a size limit, is decoded into fixed types
and checked against the request; an invalid report is a failure of the sandbox, and nothing else.
"""

import os
import signal
from typing import Final, NamedTuple, TypeVar

import msgspec

from wasmdrop.protocol.component_values import decode_result
from wasmdrop.protocol.core_values import decode_results
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.text import MESSAGE_LIMIT, bounded_text
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.wire import CompileReport, RunReport

#: The codes that a child may report; only the daemon sets the others.
GUEST_CODES: Final = frozenset(
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


class _LimitSetting(NamedTuple):
    """Where a limit is set: its key in the input and in :class:`Limits`, and its variable."""

    key: str
    unit: str
    variable: str


_SETTINGS: Final = {
    Code.TIMEOUT: _LimitSetting("timeout_sec", " s", "TIMEOUT_SEC"),
    Code.MEMORY_LIMIT: _LimitSetting("memory_mb", " MiB", "WASMDROP_MEMORY_MB"),
    Code.OUTPUT_LIMIT: _LimitSetting("output_mb", " MiB", "WASMDROP_OUTPUT_MB"),
    Code.DISK_LIMIT: _LimitSetting("disk_mb", " MiB", "WASMDROP_DISK_MB"),
    Code.FUEL_LIMIT: _LimitSetting("fuel", "", "WASMDROP_FUEL"),
}

#: Processor time that a child may have used before its job, in seconds.
_IDLE_SECONDS: Final = 1.0

_CORES: Final = os.cpu_count() or 1

_Report = TypeVar("_Report", RunReport, CompileReport)

_run_decoder = msgspec.json.Decoder(RunReport)
_compile_decoder = msgspec.json.Decoder(CompileReport)


def decode_run_report(header: bytes) -> RunReport:
    """Return the report of a run. Raise ``SandboxError`` if it does not decode."""
    return _decode(header, _run_decoder)


def decode_compile_report(header: bytes) -> CompileReport:
    """Return the report of a compilation. Raise ``SandboxError`` if it does not decode."""
    return _decode(header, _compile_decoder)


def outcome_of_report(report: RunReport, call: Call, seconds: float) -> Outcome:
    """Return the outcome that a child reported after ``seconds``.

    Raises ``SandboxError`` if it has a value that a child may not report, or an impossible one.
    """
    code = report.code
    if code not in GUEST_CODES:
        raise SandboxError(f"a child reported {code}, which only the daemon sets")
    results: tuple[object, ...] | None = None
    if code is Code.OK:
        try:
            results = results_of(report, call)
        except (OverflowError, ValueError, RecursionError) as error:
            raise SandboxError(
                f"a child reported results that do not fit the entry: {error}"
            ) from None
    exit_code = report.exit_code
    if exit_code is not None and not 0 <= exit_code < 1 << 32:
        raise SandboxError("a child reported an out-of-range exit code")
    memory_bytes = report.memory_bytes
    if memory_bytes is not None and not 0 <= memory_bytes < 1 << 48:
        raise SandboxError("a child reported an out-of-range memory size")
    fuel_used = report.fuel_used
    if fuel_used is not None and not 0 <= fuel_used < 1 << 64:
        raise SandboxError("a child reported an out-of-range use of fuel")
    return Outcome(
        code=code,
        message=bounded_text(report.message),
        fuel_used=fuel_used,
        results=results,
        exit_code=exit_code,
        peak_memory_bytes=memory_bytes,
        run_seconds=min(max(report.run_seconds, 0.0), seconds),
        cpu_seconds=_bounded_cpu_seconds(report.cpu_seconds, seconds),
    )


def with_limit(outcome: Outcome, limits: Limits) -> Outcome:
    """Add the limit and where it is set to the message of an outcome that a limit caused."""
    setting = _SETTINGS.get(outcome.code)
    value = None if setting is None else getattr(limits, setting.key)
    if setting is None or value is None:
        return outcome
    first, newline, rest = outcome.message.partition("\n")
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    shown_limit = (
        f" (limit: {shown}{setting.unit}; {setting.key} in the input, at most {setting.variable} of"
        " the daemon)"
    )
    message = bounded_text(
        f"{first[: MESSAGE_LIMIT - len(shown_limit) - 2]}{shown_limit}{newline}{rest}"
    )
    return msgspec.structs.replace(outcome, message=message)


def results_of(report: RunReport, call: Call) -> tuple[object, ...]:
    """Return the results as JSON values.

    Raises ``OverflowError``, ``RecursionError`` or ``ValueError`` if their types do not fit.
    """
    if call.component is None:
        return tuple(decode_results(report.results, call.signature.results))
    form = call.component.function.result
    if form is None or call.is_command:
        return ()
    return (decode_result(report.component_result, form),)


def outcome_without_report(
    status: int | None, limits: Limits, seconds: float, cpu_seconds: float | None
) -> Outcome:
    """Return the outcome of a child that died before it reported.

    ``status``: its wait status, or None if it was killed at its timeout. ``cpu_seconds``: the
    processor time of the process, if its parent reported it.
    """
    code, message = _death_of_job(status, limits)
    if cpu_seconds is not None:
        cpu_seconds = _bounded_cpu_seconds(cpu_seconds, seconds)
    return Outcome(code=code, message=message, run_seconds=seconds, cpu_seconds=cpu_seconds)


def _bounded_cpu_seconds(cpu_seconds: float, seconds: float) -> float:
    """Limit the processor time that a child or a zygote reports to what is possible."""
    return min(max(cpu_seconds, 0.0), _IDLE_SECONDS + seconds * _CORES)


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
    """Return the message for a compilation that ended without a report."""
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return f"compiling took longer than {seconds:g} s (WASMDROP_COMPILE_SEC)"
    # If an allocation fails, the compiler aborts and reports nothing.
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
