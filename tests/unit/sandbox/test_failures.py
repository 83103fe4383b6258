"""Messages about traps and errors of wasmtime."""

import pytest
from wasmtime import TrapCode

from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.failures import (
    TRAPS,
    backtrace,
    cause_of,
    is_out_of_memory,
    memory_refusal,
    stack_hint,
)


def test_traps_have_the_names_and_numbers_of_wasmtime() -> None:
    """Both guests report numbers."""
    names = {code.value: code.name.lower().replace("_", " ") for code in TrapCode}
    assert [names[number] for number in range(len(TRAPS))] == list(TRAPS)


def test_cause_is_last_part_of_error() -> None:
    """Wasmtime prints the causes of an error below each other."""
    text = (
        "error while executing\n\nCaused by:\n    0: first\nCaused by:\n    wasm trap: unreachable"
    )
    assert cause_of(text) == "wasm trap: unreachable"
    assert cause_of("only this") == "only this"


def test_uncaught_exception_is_explained() -> None:
    """Wasmtime's own words for it say little."""
    assert "did not catch it" in cause_of("Caused by:\n    thrown Wasm exception")


def test_out_of_memory_is_recognized_in_last_cause_only() -> None:
    """A function of the guest may be named like that."""
    assert is_out_of_memory("failed\nCaused by:\n    GC heap out of memory")
    assert not is_out_of_memory("in out of memory()\nCaused by:\n    wasm trap: unreachable")
    assert memory_refusal("Caused by:\n    GC heap out of memory").code is Code.MEMORY_LIMIT


@pytest.mark.parametrize(
    ("address", "has_hint"),
    [(0xFFFFFFF0, True), (0xF0000000, True), (0x100000010, True), (0xEFFFFFFF, False), (0, False)],
)
def test_fault_just_below_address_0_gets_hint_about_stack(address: int, *, has_hint: bool) -> None:
    """Up to 256 MiB below, or above by the offset of the access."""
    text = f"memory fault at wasm address {address:#x} in linear memory of size 0x10000"
    assert ("-z stack-size" in stack_hint(text)) is has_hint


def test_backtrace_shows_innermost_functions_and_counts_the_rest() -> None:
    """Names are bounded, because the guest chooses them."""
    lines = backtrace(["x" * 1000, *map(str, range(15))], 31).splitlines()
    assert lines[-1] == "  … 15 more"
    assert lines[2] == "  at 0"
    assert len(lines) == 1 + 16 + 1
    assert max(map(len, lines)) < 150
