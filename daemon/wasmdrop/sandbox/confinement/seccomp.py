"""Compile the tables of :mod:`.syscalls` into seccomp filters, and load them (seccomp(2)).

A filter is a program of classic BPF over ``struct seccomp_data``: number, architecture, instruction
pointer, and six arguments of 64 bits. Both supported architectures are little-endian.
"""

import ctypes
import errno
import platform
import struct
from typing import Final

from wasmdrop.sandbox.confinement.syscalls import (
    ALLOW,
    KILL_PROCESS,
    NUMBERS,
    POLICIES,
    Check,
    Role,
    Rule,
)
from wasmdrop.system import libc

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2

_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_AUDIT_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Instructions (linux/bpf_common.h).
LOAD_WORD: Final = 0x20
JUMP_EQUAL: Final = 0x15
JUMP_GREATER_EQUAL: Final = 0x35
AND: Final = 0x54
RETURN: Final = 0x06

_ALL_BITS: Final = 0xFFFFFFFF
#: Up to this many numbers are compared one after the other.
_LINEAR_SEARCH: Final = 3


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


class SeccompFilter:
    """The filter of a role on this machine, built once and loaded in every child."""

    def __init__(self, role: Role) -> None:
        self.code = b"".join(_compile(role, platform.machine()))
        self._buffer = ctypes.create_string_buffer(self.code, len(self.code))
        self._program = _Program(len(self.code) // 8, ctypes.addressof(self._buffer))

    def load(self) -> None:
        """Load the filter for good into the calling process; raise ``OSError`` if that fails."""
        libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(self._program))


def _compile(role: Role, machine: str) -> list[bytes]:
    if machine not in _AUDIT_ARCHITECTURE:
        raise OSError(errno.ENOSYS, f"no seccomp filter is known for {machine}")
    policy, numbers = POLICIES[role], NUMBERS[machine]
    branches = [(numbers[name], rule) for name, rule in policy.rules.items() if name in numbers]
    # A filter that allows by default is loaded on top of one that checks the architecture.
    check_architecture = [
        _instruction(LOAD_WORD, _ARCHITECTURE),
        _instruction(JUMP_EQUAL, _AUDIT_ARCHITECTURE[machine], 1, 0),
        _instruction(RETURN, KILL_PROCESS),
    ]
    return [
        *(check_architecture if policy.otherwise == KILL_PROCESS else ()),
        _instruction(LOAD_WORD, _NUMBER),
        # The numbers of the x32 ABI, another entry to the same kernel, are above all of these.
        *_search(sorted(branches, key=lambda branch: branch[0]), policy.otherwise),
    ]


def _search(branches: list[tuple[int, Rule]], otherwise: int) -> list[bytes]:
    """Return a binary search for the loaded number among sorted ones.

    Linear search costs too much: the kernel runs a new filter for every system call number, in
    every child.
    """
    if len(branches) <= _LINEAR_SEARCH:
        code = []
        for number, rule in branches:
            answer = _answer(rule)
            code += [_instruction(JUMP_EQUAL, number, 0, len(answer)), *answer]
        return [*code, _instruction(RETURN, otherwise)]
    middle = len(branches) // 2
    lower, upper = _search(branches[:middle], otherwise), _search(branches[middle:], otherwise)
    return [
        _instruction(JUMP_GREATER_EQUAL, branches[middle][0], len(lower), 0),
        *lower,
        *upper,
    ]


def _answer(rule: Rule) -> list[bytes]:
    """Return the instructions that answer a call by its rule."""
    if not isinstance(rule, Check):
        return [_instruction(RETURN, rule)]
    code = []
    for conditions in rule.alternatives:
        alternative = [_instruction(RETURN, ALLOW)]
        for condition in reversed(conditions):
            offset = _ARGUMENTS + 8 * condition.argument + 4 * condition.is_upper_half
            mask = condition.mask & _ALL_BITS
            alternative = [
                _instruction(LOAD_WORD, offset),
                *([_instruction(AND, mask)] if mask != _ALL_BITS else ()),
                _instruction(JUMP_EQUAL, condition.value, 0, len(alternative)),
                *alternative,
            ]
        code += alternative
    return [*code, _instruction(RETURN, rule.otherwise)]


def _instruction(kind: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", kind, if_true, if_false, value)
