"""Outcomes on their way from a worker: equal if honest, refused if impossible."""

import math
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fleet.outcome_strategies import ELAPSED_SECONDS, LIMITS, called_outcomes
from tests.support.strategies import mutations
from wasmdrop.fleet.bodies.invalid_answers import Flaw, InvalidAnswerError
from wasmdrop.fleet.bodies.outcome_codec import (
    check_runtime,
    decode_outcome,
    encode_outcome,
    max_outcome_bytes,
)
from wasmdrop.protocol.module_types import ComponentCall, FunctionType, WitFunction, WitType
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.runtime_versions import RuntimeVersions, own_versions
from wasmdrop.protocol.text import MESSAGE_LIMIT
from wasmdrop.sandbox.host.call import Call

CALL = Call("f", FunctionType((), ("i32", "f64")))
COMMAND = Call("_start", FunctionType(), is_command=True)
OUTCOME = Outcome(
    Code.OK, results=(5, "nan:0x4000000000001"), peak_memory_bytes=65536, run_seconds=0.5
)
RUN = Outcome(Code.OK, exit_code=0, results=(), is_command=True, stdout=b"a", stderr=b"")


def component(form: WitType) -> Call:
    """Return a call of a component whose result has this type."""
    return Call("f", FunctionType(), component=ComponentCall(WitFunction((), form), ()))


LIST = component(WitType("list", (), (WitType("u8"),)))


def decoded(
    data: bytes, call: Call = CALL, *, has_streams: bool = False, elapsed_seconds: float = 30.0
) -> Outcome:
    """Decode an outcome."""
    return decode_outcome(
        data, call, LIMITS, has_streams=has_streams, elapsed_seconds=elapsed_seconds
    )


def claim(outcome: Outcome, call: Call = CALL, **fields: Any) -> bytes:
    """Return an outcome as it travels, with other fields."""
    return msgspec.msgpack.encode(
        {**msgspec.msgpack.decode(encode_outcome(outcome, call)), **fields}
    )


@given(called_outcomes())
def test_outcome_of_a_local_executor_is_decoded_equal(case: tuple[Call, Outcome, bool]) -> None:
    """Results of all types with all NaNs, output, messages, fuel, memory, durations."""
    call, outcome, has_streams = case
    data = encode_outcome(outcome, call)
    found = decode_outcome(
        data, call, LIMITS, has_streams=has_streams, elapsed_seconds=ELAPSED_SECONDS
    )
    assert found == outcome
    assert repr(found) == repr(outcome)  # -0.0 and 0.0, 1 and True are equal


def test_outcome_of_a_command_with_all_its_output_is_decoded_equal() -> None:
    """Up to the limit."""
    half = b"x" * (LIMITS.output_bytes // 2)
    outcome = msgspec.structs.replace(RUN, stdout=half, stderr=half)
    data = encode_outcome(outcome, COMMAND)
    assert len(data) <= max_outcome_bytes(COMMAND, LIMITS)
    assert decoded(data, COMMAND, has_streams=True) == outcome


def test_result_of_a_component_as_large_as_its_limit_is_decoded_equal() -> None:
    """Its limit is that of a child's report, in JSON."""
    outcome = Outcome(Code.OK, results=([255] * (LIMITS.output_bytes * 3 // 4),))
    data = encode_outcome(outcome, LIST)
    assert len(data) <= max_outcome_bytes(LIST, LIMITS)
    assert decoded(data, LIST) == outcome


@pytest.mark.parametrize(
    "code",
    [
        Code.INVALID_INPUT,
        Code.INVALID_ARGS,
        Code.UNSUPPORTED_SIGNATURE,
        Code.MODULE_MISSING,
        Code.INVALID_MODULE,
        Code.COMPILE_LIMIT,
    ],
)
def test_code_that_only_the_daemon_sets_is_refused(code: Code) -> None:
    """The daemon found the job fit to run."""
    refuse(claim(Outcome(Code.TRAP), code=code), Flaw.VALUE, f"the code {code}, which only")


def refuse(
    data: bytes, flaw: Flaw, reason: str, call: Call = CALL, *, has_streams: bool = False
) -> None:
    """Assert that an outcome is refused, and why."""
    with pytest.raises(InvalidAnswerError, match=re.escape(reason)) as caught:
        decoded(data, call, has_streams=has_streams)
    assert caught.value.flaw is flaw
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"exit_code": -1}, "exit code: -1"),
        ({"exit_code": 1 << 32}, "exit code"),
        ({"peak_memory_bytes": 1 << 48}, "memory size"),
        ({"peak_memory_bytes": -1}, "memory size"),
        ({"fuel_used": -1}, "use of fuel"),
        ({"run_seconds": math.nan}, "duration: nan s"),
        ({"run_seconds": math.inf}, "duration: inf s"),
        ({"run_seconds": -0.5}, "duration: -0.5 s"),
        ({"cpu_seconds": math.nan}, "duration"),
        ({"cpu_seconds": -1.0}, "duration"),
        ({"results": []}, "results that do not fit"),
        ({"results": [1]}, "results that do not fit"),
        ({"results": [1, 2, 3]}, "results that do not fit"),
        ({"results": [1 << 32, 0]}, "results that do not fit"),
        ({"results": [-1, 0]}, "results that do not fit"),
        ({"stdout": b"", "stderr": b""}, "output of a module that does not import WASI"),
        ({"stdout": b""}, "alone"),
    ],
)
def test_impossible_value_is_refused(fields: dict[str, Any], reason: str) -> None:
    """By its range, or by the types of the call."""
    refuse(claim(OUTCOME, **fields), Flaw.VALUE, reason)


def test_output_larger_than_its_limit_is_refused() -> None:
    """Both streams together."""
    half = b"x" * (LIMITS.output_bytes // 2 + 1)
    data = claim(RUN, COMMAND, stdout=half, stderr=half)
    refuse(data, Flaw.SIZE, "bytes of output", COMMAND, has_streams=True)


@pytest.mark.parametrize(
    ("code", "is_refused"),
    [
        (Code.OK, True),
        (Code.EXIT, True),
        (Code.TIMEOUT, True),
        (Code.DISK_LIMIT, False),
        (Code.MEMORY_LIMIT, False),
        (Code.INTERNAL, False),
    ],
)
def test_wasi_program_without_output_is_refused_unless_it_never_ran(
    code: Code, is_refused: bool
) -> None:
    """Then the result files would lack those of a command."""
    data = claim(RUN, COMMAND, code=code, stdout=None, stderr=None)
    if is_refused:
        refuse(data, Flaw.VALUE, "no output of a WASI program", COMMAND, has_streams=True)
    else:
        found = decoded(data, COMMAND, has_streams=True)
        assert (found.code, found.stdout, found.is_command) == (code, None, False)


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"null",
        b"5",
        b'{"base64": ""}',
        b'["AA=="]',
        b'"A"',
        b"[" * 100_000,
        b'"\xff"',
        b"1e999",
    ],
)
def test_result_of_a_component_that_does_not_fit_is_refused(plain: bytes) -> None:
    """Text that is not JSON, other types, deep nesting."""
    data = claim(Outcome(Code.OK), LIST, component_result=plain)
    refuse(data, Flaw.VALUE, "results that do not fit the entry", LIST)


def test_result_of_a_component_is_refused_for_its_size_before_it_is_parsed() -> None:
    """Even if output and result together could be as large."""
    plain = b'"' + b"A" * (LIMITS.output_bytes + 256 * 1024) + b'"'
    refuse(claim(Outcome(Code.OK), LIST, component_result=plain), Flaw.SIZE, "as JSON", LIST)


def test_outcome_is_refused_for_its_size_before_it_is_parsed() -> None:
    """The limit is that of the call."""
    data = b"\x90" * (max_outcome_bytes(CALL, LIMITS) + 1)
    refuse(data, Flaw.SIZE, "an outcome of")


def test_fields_that_the_daemon_knows_better_are_not_taken() -> None:
    """Whatever a worker adds, even with the right types."""
    data = claim(
        OUTCOME,
        compile_seconds=5.0,
        attempts=99,
        worker="other",
        is_command=True,
        runtime=msgspec.to_builtins(own_versions()),
        output={"root": "/etc", "files": []},
    )
    assert decoded(data) == OUTCOME


def test_durations_are_bounded_by_what_is_possible() -> None:
    """By the time since publication, and by the kernel's limit of processor time."""
    data = claim(OUTCOME, run_seconds=1e9, cpu_seconds=1e9)
    found = decoded(data, elapsed_seconds=3.5)
    assert found.run_seconds == 3.5
    assert found.cpu_seconds is not None
    assert found.cpu_seconds <= LIMITS.timeout_sec + 4


def test_message_is_bounded_and_printable() -> None:
    """As that of a child."""
    data = claim(Outcome(Code.TRAP), message="\x1b[2J\u202e" * 10_000)
    found = decoded(data)
    assert len(found.message) <= MESSAGE_LIMIT
    assert found.message.isprintable()


def test_results_of_a_job_that_failed_are_not_taken() -> None:
    """A trap has no results."""
    assert decoded(claim(OUTCOME, code=Code.TRAP)).results is None


_SOUND = encode_outcome(OUTCOME, CALL)


@given(mutations(_SOUND) | mutations(encode_outcome(Outcome(Code.OK, results=([1],)), LIST)))
def test_mutated_outcome_is_possible_or_refused(data: bytes) -> None:
    """With one exception, and no other."""
    for call in (CALL, LIST, COMMAND):
        for has_streams in (False, True):
            try:
                found = decoded(data, call, has_streams=has_streams)
            except InvalidAnswerError as error:
                assert str(error).isprintable()  # noqa: PT017 - one of two good ends
                continue
            assert (found.results is None) == (found.code is not Code.OK)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_outcome_are_refused(data: bytes) -> None:
    """Of any length."""
    with pytest.raises(InvalidAnswerError):
        decoded(data)


@pytest.mark.parametrize(
    "runtime",
    [
        RuntimeVersions("1", "2", ""),
        RuntimeVersions("1", "x" * 101, "linux"),
        RuntimeVersions("1\n", "2", "linux"),
        RuntimeVersions("1", "2", "\x1b[2J"),
    ],
)
def test_versions_that_are_no_short_text_are_refused(runtime: RuntimeVersions) -> None:
    """They are part of the marker."""
    with pytest.raises(InvalidAnswerError, match="a version that is not"):
        check_runtime(runtime, own_versions(), deterministic=False)


def test_deterministic_job_must_have_run_in_the_same_wasmtime() -> None:
    """Others may run in any version."""
    runtime = msgspec.structs.replace(own_versions(), wasmtime="1.0.0")
    check_runtime(runtime, own_versions(), deterministic=False)
    check_runtime(own_versions(), own_versions(), deterministic=True)
    with pytest.raises(InvalidAnswerError, match=r"ran in wasmtime 1\.0\.0"):
        check_runtime(runtime, own_versions(), deterministic=True)
