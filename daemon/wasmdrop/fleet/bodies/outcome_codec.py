"""Outcomes on their way from a worker, and how a daemon checks them.

A worker may have been taken over, as the child of a sandbox may. So the rules are those of
:mod:`wasmdrop.sandbox.host.reports`: a size limit, fixed types, and each value checked against the
call. Results are bit patterns or plain values, and only the types of the call make them JSON.

A worker can't set the fields of an outcome that the daemon knows better: how long the module was
compiled, how many attempts there were, whether the entry is a command, which worker it was.
"""

import math
from typing import Any, Final

import msgspec

from wasmdrop.fleet.bodies.invalid_answers import Flaw, InvalidAnswerError
from wasmdrop.protocol import component_values, core_values
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import WitFunction
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.runtime_versions import RuntimeVersions
from wasmdrop.protocol.text import bounded_text, one_line
from wasmdrop.sandbox.host.call import Call, cpu_limit_seconds
from wasmdrop.sandbox.host.reports import GUEST_CODES, results_of
from wasmdrop.sandbox.wire import MAX_RUN_REPORT_BYTES, RunReport

#: The codes that a worker may claim: those of its children, and those that it gives to children
#: that it had to kill or found dead. The daemon finds the others before a job is published.
_WORKER_CODES: Final = GUEST_CODES | {
    Code.TIMEOUT,
    Code.DISK_LIMIT,
    Code.SANDBOX_VIOLATION,
    Code.CRASHED,
}

#: The codes of a job that imports WASI, but has no output: it was not run, or its worker failed.
_WITHOUT_STREAMS: Final = frozenset({Code.MEMORY_LIMIT, Code.DISK_LIMIT, Code.INTERNAL})

#: Processor time that a child may have used before its job, or until it is killed, in seconds.
_IDLE_SECONDS: Final = 2.0

_MAX_VERSION_CHARACTERS: Final = 100

_NAME_OF_RESULT: Final = "result"


class _Wire(msgspec.Struct, frozen=True, omit_defaults=True):
    """An outcome as it travels."""

    code: Code
    message: str = ""
    results: tuple[int, ...] = ()
    """Bit patterns."""
    component_result: bytes = b""
    """A plain value as JSON: it takes no more room than a child's report, in memory too."""
    exit_code: int | None = None
    stdout: bytes | None = None
    stderr: bytes | None = None
    peak_memory_bytes: int | None = None
    fuel_used: int | None = None
    run_seconds: float = 0.0
    cpu_seconds: float | None = None


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Wire)


def max_outcome_bytes(call: Call, limits: Limits) -> int:
    """Return the limit of an encoded outcome: a report, and all output that the job may have."""
    outputs = 1 if call.component is None else 2
    return 2 * MAX_RUN_REPORT_BYTES + outputs * limits.output_bytes


def encode_outcome(outcome: Outcome, call: Call) -> bytes:
    """Return an outcome of a local executor, without its output files."""
    results: tuple[int, ...] = ()
    component_result = b""
    if outcome.results:
        if call.component is None:
            results = tuple(core_values.encode_args(outcome.results, call.signature.results))
        else:
            component_result = _plain(outcome.results[0], call)
    return _encoder.encode(
        _Wire(
            outcome.code,
            bounded_text(outcome.message),
            results,
            component_result,
            outcome.exit_code,
            outcome.stdout,
            outcome.stderr,
            outcome.peak_memory_bytes,
            outcome.fuel_used,
            outcome.run_seconds,
            outcome.cpu_seconds,
        )
    )


def decode_outcome(
    data: bytes | bytearray,
    call: Call,
    limits: Limits,
    *,
    has_streams: bool,
    elapsed_seconds: float,
) -> Outcome:
    """Return the outcome that a worker claims, if the call may have it.

    ``has_streams``: whether the module imports WASI, so that its output is captured.
    ``elapsed_seconds``: the time since the job was published; infinity if that is unknown.
    Raises ``InvalidAnswerError``.
    """
    wire = _decode(data, max_outcome_bytes(call, limits))
    if wire.code not in _WORKER_CODES:
        raise _invalid(f"the code {wire.code}, which only the daemon sets")
    _check_streams(wire, limits, has_streams=has_streams)
    _check_numbers(wire)
    run_seconds = min(wire.run_seconds, elapsed_seconds)
    cpu_seconds = wire.cpu_seconds
    if cpu_seconds is not None:
        # The kernel limits the processor time of a job.
        cpu_seconds = min(cpu_seconds, cpu_limit_seconds(limits) + _IDLE_SECONDS)
    return Outcome(
        code=wire.code,
        message=bounded_text(wire.message),
        results=_results(wire, call, limits) if wire.code is Code.OK else None,
        exit_code=wire.exit_code,
        is_command=call.is_command and wire.stdout is not None,
        stdout=wire.stdout,
        stderr=wire.stderr,
        peak_memory_bytes=wire.peak_memory_bytes,
        fuel_used=wire.fuel_used,
        run_seconds=run_seconds,
        cpu_seconds=cpu_seconds,
    )


def check_runtime(runtime: RuntimeVersions, own: RuntimeVersions, *, deterministic: bool) -> None:
    """Check the versions that a worker states. Raises ``InvalidAnswerError``.

    A deterministic job must have run in the daemon's own version of wasmtime.
    """
    for text in (runtime.wasmdrop, runtime.wasmtime, runtime.platform):
        if not text.isprintable() or not 0 < len(text) <= _MAX_VERSION_CHARACTERS:
            raise _invalid("a version that is not a short printable text")
    if deterministic and runtime.wasmtime != own.wasmtime:
        raise _invalid(
            f"a deterministic job ran in wasmtime {runtime.wasmtime}, not in {own.wasmtime}"
        )


def _plain(result: object, call: Call) -> bytes:
    """Return the result of a component as JSON of a plain value."""
    assert call.component is not None  # noqa: S101 - the caller has checked it
    form = call.component.function.result
    assert form is not None  # noqa: S101 - there is a result
    function = WitFunction(((_NAME_OF_RESULT, form),))
    return msgspec.json.encode(component_values.encode_args([result], function)[0])


def _decode(data: bytes | bytearray, max_bytes: int) -> _Wire:
    if len(data) > max_bytes:
        raise InvalidAnswerError(
            Flaw.SIZE, f"an outcome of {len(data)} bytes; at most {max_bytes} are possible"
        )
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidAnswerError(
            Flaw.MALFORMED, one_line(f"an outcome that does not decode: {error}")
        ) from None


def _check_streams(wire: _Wire, limits: Limits, *, has_streams: bool) -> None:
    if (wire.stdout is None) != (wire.stderr is None):
        raise _invalid("one of standard output and standard error alone")
    if wire.stdout is None or wire.stderr is None:
        if has_streams and wire.code not in _WITHOUT_STREAMS:
            raise _invalid(f"no output of a WASI program that ended with {wire.code}")
        return
    if not has_streams:
        raise _invalid("output of a module that does not import WASI")
    size_bytes = len(wire.stdout) + len(wire.stderr)
    if size_bytes > limits.output_bytes:
        raise InvalidAnswerError(
            Flaw.SIZE, f"{size_bytes} bytes of output; the limit is {limits.output_bytes}"
        )


def _check_numbers(wire: _Wire) -> None:
    for name, value, bits in (
        ("exit code", wire.exit_code, 32),
        ("memory size", wire.peak_memory_bytes, 48),
        ("use of fuel", wire.fuel_used, 64),
    ):
        if value is not None and not 0 <= value < 1 << bits:
            raise _invalid(f"an out-of-range {name}: {value}")
    for seconds in (wire.run_seconds, wire.cpu_seconds):
        if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
            raise _invalid(f"an impossible duration: {seconds} s")


def _results(wire: _Wire, call: Call, limits: Limits) -> tuple[Any, ...]:
    if len(wire.component_result) > limits.output_bytes + MAX_RUN_REPORT_BYTES:
        raise InvalidAnswerError(
            Flaw.SIZE, f"a result of {len(wire.component_result)} bytes as JSON"
        )
    try:
        plain = msgspec.json.decode(wire.component_result) if wire.component_result else None
        report = RunReport(wire.code, results=wire.results, component_result=plain)
        return results_of(report, call)
    except (
        msgspec.DecodeError,
        OverflowError,
        RecursionError,
        RefusedError,
        ValueError,
    ) as error:
        raise _invalid(f"results that do not fit the entry: {error}") from None


def _invalid(reason: str) -> InvalidAnswerError:
    return InvalidAnswerError(Flaw.VALUE, one_line(reason))
