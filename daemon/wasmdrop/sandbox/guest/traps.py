"""Why a run ended: what wasmtime says of traps and errors, in words for people."""

import re
from typing import Final

from wasmtime import Trap, TrapCode

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text

__all__ = [
    "backtrace",
    "cause_of",
    "is_out_of_memory",
    "mebibytes",
    "memory_refusal",
    "stack_hint",
    "trap_refusal",
]

#: Frames of a backtrace that a message shows; the innermost ones tell the most.
_FRAMES_SHOWN: Final = 16
#: A function's name in a backtrace, in characters; names are the guest's.
_NAME_SHOWN: Final = 120

_EXCEPTION: Final = "thrown Wasm exception"

_FAULT: Final = re.compile(r"memory fault at wasm address (0x[0-9a-f]+)")
#: How many addresses there are with 32 bits. An address below 0 is one just below this; the offset
#: of the access is added to it after that.
_ADDRESSES: Final = 1 << 32
_OFFSET_REACHES: Final = 1 << 16
_STACK_REACHES: Final = 256 * MEBIBYTE


def is_out_of_memory(text: str) -> bool:
    """Whether wasmtime says of an end that it could not allocate for the guest."""
    return "out of memory" in text.rpartition("Caused by:")[2]


def memory_refusal(text: str) -> RefusedError:
    """Return the refusal of something that, as ``text`` says, would have taken too much memory."""
    return RefusedError(Code.MEMORY_LIMIT, cause_of(text))


def trap_refusal(trap: Trap, where: str = "") -> RefusedError:
    """Return what a trap is to the job; the message begins with ``where``."""
    kind = trap.trap_code
    if kind is TrapCode.OUT_OF_FUEL:
        return RefusedError(Code.FUEL_LIMIT, f"{where}used up its fuel")
    if kind is None:
        words = cause_of(str(trap))
    else:
        words = kind.name.lower().replace("_", " ") + stack_hint(str(trap))
    names = [frame.func_name or f"function {frame.func_index}" for frame in trap.frames]
    return RefusedError(Code.TRAP, f"{where}{words}{backtrace(names)}")


def cause_of(text: str) -> str:
    """Return the last part of an error of wasmtime's, which says what happened."""
    cause = text.rpartition("Caused by:")[2].strip()
    if cause == _EXCEPTION:
        return "uncaught exception: the program threw a WebAssembly exception and caught it nowhere"
    return bounded_text(cause)


def stack_hint(text: str) -> str:
    """Return what else is to be said of an access just below address 0 of a memory, if it was one.

    C and Rust programs have their stack in memory. It grows down, in most of them to address 0.
    """
    fault = _FAULT.search(text)
    below = 0 if fault is None else _ADDRESSES - int(fault[1], 16)
    if fault is None or not -_OFFSET_REACHES < below <= _STACK_REACHES:
        return ""
    return (
        " just below address 0: the program's stack in memory may have overflowed; recurse less, or"
        " link it with a larger stack (wasm-ld: -z stack-size=BYTES)"
    )


def backtrace(names: list[str]) -> str:
    """Return the lines of a backtrace, the innermost function first."""
    lines = [f"\n  at {bounded_text(name, _NAME_SHOWN)}" for name in names[:_FRAMES_SHOWN]]
    if len(names) > _FRAMES_SHOWN:
        lines.append(f"\n  … {len(names) - _FRAMES_SHOWN} more")
    return "".join(lines)


def mebibytes(size_bytes: int) -> str:
    """Return a size for people."""
    return f"{size_bytes / MEBIBYTE:.1f} MiB"
