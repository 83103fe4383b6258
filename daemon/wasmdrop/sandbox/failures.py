"""Turn the traps and errors of wasmtime into reports with messages for people.

Both guests report traps by number, so that one place puts them into words.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.wire import Preparation, RunReport

#: wasmtime's traps by their number; those after these occur in components only (trap.h).
TRAPS: Final = (
    "stack overflow",
    "memory out of bounds",
    "heap misaligned",
    "table out of bounds",
    "indirect call to null",
    "bad signature",
    "integer overflow",
    "integer division by zero",
    "bad conversion to integer",
    "unreachable",
    "interrupt",
    "out of fuel",
    "atomic wait non shared memory",
    "null reference",
    "array out of bounds",
    "allocation too large",
    "cast failure",
)
_OUT_OF_FUEL: Final = TRAPS.index("out of fuel")

#: The record of a growth that exceeds the module's own maximum or its index type.
PAST_MAXIMUM: Final = -1

_MAY_LACK_MEMORY: Final = frozenset({Code.TRAP, Code.EXIT})

#: Functions of a backtrace in a message; the innermost ones are the most useful.
FRAMES_SHOWN: Final = 16
#: Characters of a function's name in a backtrace; the guest chooses the names.
_NAME_SHOWN: Final = 120

_EXCEPTION: Final = "thrown Wasm exception"

_FAULT: Final = re.compile(r"memory fault at wasm address (0x[0-9a-f]+)")
#: The end of the 32-bit address space, where an address below 0 wraps to; the offset of the access
#: is added after that.
_ADDRESSES: Final = 1 << 32
_OFFSET_REACHES: Final = 1 << 16
_STACK_REACHES: Final = 256 * MEBIBYTE


def is_out_of_memory(text: str) -> bool:
    """Return whether an error's text says that wasmtime could not allocate memory for the guest."""
    return "out of memory" in text.rpartition("Caused by:")[2]


def memory_refusal(text: str) -> RefusedError:
    """Return the refusal for an error of too much memory."""
    return RefusedError(Code.MEMORY_LIMIT, cause_of(text))


def trap_refusal(
    number: int | None, text: str, frames: Sequence[str], frame_count: int, where: str = ""
) -> RefusedError:
    """Return the refusal for a trap; the message begins with ``where``.

    ``number``: that of wasmtime, if the trap has one; ``text``: wasmtime's message; ``frames``: the
    names of the innermost functions of ``frame_count``.
    """
    if number == _OUT_OF_FUEL:
        return RefusedError(Code.FUEL_LIMIT, f"{where}used up its fuel")
    if number is not None and 0 <= number < len(TRAPS):
        words = TRAPS[number] + stack_hint(text)
    else:
        words = cause_of(text)
    return RefusedError(Code.TRAP, f"{where}{words}{backtrace(frames, frame_count)}")


def error_refusal(text: str) -> RefusedError:
    """Return the refusal for a call that failed with an error that is no trap."""
    if is_out_of_memory(text):
        return memory_refusal(text)
    return RefusedError(Code.TRAP, bounded_text(text))


def may_lack_memory(report: RunReport) -> bool:
    """Whether a refused growth would be taken as the reason of the report.

    That is a trap or a non-zero exit code: most programs end like this if they run out of memory,
    and there is no other sign of it.
    """
    return report.code in _MAY_LACK_MEMORY and report.exit_code != 0


def with_growth_reason(report: RunReport, refused: str, *, is_by_limit: bool) -> RunReport:
    """Return the report with a description of refused growth, if there was any.

    ``is_by_limit``: whether the limit of the job refused it.
    """
    if not refused:
        return report
    code = Code.MEMORY_LIMIT if is_by_limit else report.code
    message = f"{refused}, and then the program ended: {report.message}"
    return msgspec.structs.replace(report, code=code, message=message)


def refused_growth(preparation: Preparation, grown_bytes: int, elements: int) -> tuple[str, bool]:
    """Return a description of refused growth, and whether the job's limit refused it.

    ``grown_bytes`` and ``elements``: the size that was refused, :data:`PAST_MAXIMUM`, or 0.
    """
    shares = preparation.shares
    if grown_bytes > 0:
        words = f"a memory was refused growth to {mebibytes(grown_bytes)}"
        if shares.memory_bytes < preparation.memory_bytes:
            words += f" (its share is {mebibytes(shares.memory_bytes)})"
        return words, True
    if elements > 0:
        words = f"a table was refused growth to {elements} elements"
        return f"{words} (its share is {shares.table_elements})", True
    for kind, refused in (("memory", grown_bytes), ("table", elements)):
        if refused == PAST_MAXIMUM:
            words = f"a {kind} was refused growth past the maximum that the module declares"
            return words, False
    return "", False


def cause_of(text: str) -> str:
    """Return the last cause in the text of a wasmtime error."""
    cause = text.rpartition("Caused by:")[2].strip()
    if cause == _EXCEPTION:
        return "uncaught exception: the program threw a WebAssembly exception and did not catch it"
    return bounded_text(cause)


def stack_hint(text: str) -> str:
    """Return a hint if an access just below address 0 of a memory failed, else nothing.

    C and Rust programs keep their stack in memory, where it grows down, usually to address 0.
    """
    fault = _FAULT.search(text)
    below = 0 if fault is None else _ADDRESSES - int(fault[1], 16)
    if fault is None or not -_OFFSET_REACHES < below <= _STACK_REACHES:
        return ""
    return (
        " just below address 0: the program's stack in memory may have overflowed; recurse less, or"
        " link it with a larger stack (wasm-ld: -z stack-size=BYTES)"
    )


def backtrace(names: Sequence[str], count: int) -> str:
    """Return the lines of a backtrace of ``count`` functions, innermost first."""
    lines = [f"\n  at {bounded_text(name, _NAME_SHOWN)}" for name in names[:FRAMES_SHOWN]]
    if count > FRAMES_SHOWN:
        lines.append(f"\n  … {count - FRAMES_SHOWN} more")
    return "".join(lines)


def mebibytes(size_bytes: int) -> str:
    """Return a size in MiB for a message."""
    return f"{size_bytes / MEBIBYTE:.1f} MiB"
