"""Instructions of classic BPF, as a seccomp filter has them (linux/bpf_common.h).

What is loaded is a word of ``struct seccomp_data``: number, architecture, instruction pointer, and
six arguments of 64 bits.
"""

import struct
from typing import Final

__all__ = [
    "ALLOW",
    "ARGUMENTS",
    "ERRNO",
    "JUMP_ANY_BIT",
    "JUMP_EQUAL",
    "JUMP_GREATER_EQUAL",
    "KILL_PROCESS",
    "end",
    "jump",
    "keep_bits",
    "load_argument",
    "load_word",
]

JUMP_EQUAL: Final = 0x15
JUMP_GREATER_EQUAL: Final = 0x35
JUMP_ANY_BIT: Final = 0x45
_LOAD_WORD: Final = 0x20
_AND: Final = 0x54
_RETURN: Final = 0x06

#: What a filter returns (linux/seccomp.h); an error comes with its number.
ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000
KILL_PROCESS: Final = 0x80000000

ARGUMENTS: Final = 16


def load_word(offset: int) -> bytes:
    """Load the word at this offset."""
    return struct.pack("<HBBI", _LOAD_WORD, 0, 0, offset)


def load_argument(index: int) -> bytes:
    """Load the lower half of an argument; both machines are little-endian."""
    return load_word(ARGUMENTS + index * 8)


def keep_bits(bits: int) -> bytes:
    """Keep these bits alone of what is loaded."""
    return struct.pack("<HBBI", _AND, 0, 0, bits & 0xFFFFFFFF)


def jump(kind: int, value: int, if_true: int, if_false: int) -> bytes:
    """Compare what is loaded with a value, and skip so many instructions."""
    return struct.pack("<HBBI", kind, if_true, if_false, value)


def end(value: int) -> bytes:
    """Return a value."""
    return struct.pack("<HBBI", _RETURN, 0, 0, value)
