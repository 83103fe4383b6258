"""Random calls, and outcomes that a local executor returns for them."""

from typing import Any

import msgspec
from hypothesis import strategies as st

from tests.support.strategies import plain_of, texts, types
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.module_types import ComponentCall, FunctionType, WitFunction
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.reports import GUEST_CODES, outcome_of_report, with_limit
from wasmdrop.sandbox.wire import RunReport

#: Of the calls of random outcomes.
LIMITS = Limits(timeout_sec=20, output_mb=1)

#: Longer than any random outcome takes, in seconds.
ELAPSED_SECONDS = 30.0

_NUMBERS = {"i32": 32, "i64": 64, "f32": 32, "f64": 64}
_NANS = {
    "f32": [0x7FC00000, 0x7FA00001, 0xFFC00000, 0x7F800001, 0x7F800000, 0x80000000],
    "f64": [0x7FF8000000000000, 0x7FF4000000000001, 0xFFF8000000000000, 1 << 63],
}


def bits_of(name: str) -> st.SearchStrategy[int]:
    """Return a strategy of bit patterns of a type of core modules, often NaNs with a payload."""
    return st.sampled_from(_NANS.get(name, [0])) | st.integers(0, (1 << _NUMBERS[name]) - 1)


_signatures = st.builds(
    FunctionType,
    st.lists(st.sampled_from([*_NUMBERS]), max_size=4).map(tuple),
    st.lists(st.sampled_from([*_NUMBERS]), max_size=6).map(tuple),
)

_paths = st.from_regex(r"([a-c]/){0,2}[d-f]{1,2}", fullmatch=True)


@st.composite
def core_calls(draw: st.DrawFn) -> Call:
    """Draw a call of a module."""
    signature = draw(_signatures)
    return Call(
        entry=draw(texts),
        signature=signature,
        args=tuple(draw(bits_of(name)) for name in signature.params),
        argv=tuple(draw(st.lists(texts, max_size=3))),
        env=draw(st.dictionaries(texts, texts, max_size=3)),
        stdin=draw(st.binary(max_size=40)),
        files=draw(st.dictionaries(_paths, st.binary(max_size=20), max_size=3)),
        is_command=draw(st.booleans()),
    )


@st.composite
def component_calls(draw: st.DrawFn) -> Call:
    """Draw a call of a component."""
    forms = draw(st.lists(types, max_size=3))
    function = WitFunction(
        tuple((f"p{number}", form) for number, form in enumerate(forms)),
        draw(st.none() | types),
    )
    args = tuple(draw(plain_of(form)) for form in forms)
    return Call(
        entry=draw(texts),
        signature=FunctionType(),
        component=ComponentCall(function, args),
        stdin=draw(st.binary(max_size=40)),
        is_command=draw(st.booleans()),
    )


calls = core_calls() | component_calls()


@st.composite
def called_outcomes(draw: st.DrawFn) -> tuple[Call, Outcome, bool]:
    """Draw a call, an outcome of it, and whether its module imports WASI."""
    call = draw(calls)
    has_streams = draw(st.booleans())
    code = draw(st.sampled_from(sorted(GUEST_CODES | set(_KILLED))))
    seconds = st.floats(0, LIMITS.timeout_sec)
    if code in GUEST_CODES:
        report = RunReport(
            code,
            draw(st.text()),
            draw(_core_results(call)),
            draw(st.none() | st.integers(0, (1 << 32) - 1)),
            draw(st.none() | st.integers(0, (1 << 48) - 1)),
            draw(seconds),
            draw(seconds),
            component_result=draw(_component_result(call)),
            fuel_used=draw(st.none() | st.integers(0, (1 << 64) - 1)),
        )
        outcome = outcome_of_report(report, call, ELAPSED_SECONDS)
    else:
        message = bounded_text(draw(st.text()))
        outcome = Outcome(
            code=code,
            message=message,
            run_seconds=draw(seconds),
            cpu_seconds=draw(st.none() | seconds),
        )
    if has_streams:
        stdout, stderr = draw(st.binary(max_size=40)), draw(st.binary(max_size=40))
        outcome = msgspec.structs.replace(
            outcome, is_command=call.is_command, stdout=stdout, stderr=stderr
        )
    return call, with_limit(outcome, LIMITS), has_streams


_KILLED = (Code.TIMEOUT, Code.DISK_LIMIT, Code.SANDBOX_VIOLATION, Code.CRASHED)


def _core_results(call: Call) -> st.SearchStrategy[tuple[int, ...]]:
    if call.component is not None:
        return st.just(())
    return st.tuples(*map(bits_of, call.signature.results))


def _component_result(call: Call) -> st.SearchStrategy[Any]:
    if call.component is None or call.component.function.result is None:
        return st.none()
    return plain_of(call.component.function.result)
