"""Turn wasmtime's traps and errors into refusals with messages for people."""

import re
from typing import Final

from wasmtime import Trap, TrapCode

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text

#: Frames of a backtrace in a message; the innermost ones are the most useful.
_FRAMES_SHOWN: Final = 16
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


def trap_refusal(trap: Trap, where: str = "") -> RefusedError:
    """Return the refusal for a trap; the message begins with ``where``."""
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


def backtrace(names: list[str]) -> str:
    """Return the lines of a backtrace, innermost function first."""
    lines = [f"\n  at {bounded_text(name, _NAME_SHOWN)}" for name in names[:_FRAMES_SHOWN]]
    if len(names) > _FRAMES_SHOWN:
        lines.append(f"\n  … {len(names) - _FRAMES_SHOWN} more")
    return "".join(lines)


def mebibytes(size_bytes: int) -> str:
    """Return a size in MiB for a message."""
    return f"{size_bytes / MEBIBYTE:.1f} MiB"
