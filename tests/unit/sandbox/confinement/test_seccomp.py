"""What seccomp filters answer, calculated from their instructions for calls and arguments.

A child of a template has other filters than one of the forking server. They must allow it the same:
each call that there is, with each argument that any of the filters has an eye on.
"""

import mmap
import os
import platform
import signal
import socket
import struct
from collections.abc import Iterator, Sequence

import pytest

from wasmdrop.sandbox.confinement import bpf
from wasmdrop.sandbox.confinement.seccomp import (
    FORKING_SYSCALL_NUMBERS,
    SYSCALL_NUMBERS,
    Filter,
    Stage,
)

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ORDINARY = (Stage.ENTERED, Stage.RUNNING)
FROM_A_TEMPLATE = (Stage.ZYGOTE, Stage.RUNNING, Stage.INVOKED)
A_TEMPLATE = (Stage.ZYGOTE, Stage.RUNNING)

#: Calls that there are, some that there are not, and x32's.
NUMBERS = (*range(600), 0x40000000, 0x40000038, 0xFFFFFFFF)

CLONE_VM, CLONE_THREAD, CLONE_PARENT, CLONE_NEWUSER = 0x100, 0x10000, 0x8000, 0x10000000
#: What a fork and the start of a thread ask of clone(2) in glibc.
FORK = 0x01200000 | signal.SIGCHLD
THREAD = 0x3D0F00

#: What filters look at, by the place among the arguments.
PLACES = (
    (
        *(0, 1, 2, 15, 16, 22, FORK, FORK | CLONE_PARENT, FORK | CLONE_VM, FORK | CLONE_NEWUSER),
        *(THREAD, CLONE_VM, CLONE_THREAD, signal.SIGCHLD, 1 << 32, 0xFFFFFFFF),
    ),
    (*range(16), 1030, 1033, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 1 << 32),
    (
        *(0, mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_EXEC, 7, 1 << 32),
        *(os.O_CLOEXEC, os.O_RDWR, os.O_PATH, os.O_CREAT, os.O_TRUNC, 0x400000),
    ),
    (0, 1, 2, 0x22, 0x21, 0x122, 1 << 32),
)

#: No filter looks at more than the first argument and another one.
ARGUMENTS = sorted(
    {
        tuple(first if at == 0 else other if at == place else 0 for at in range(4))
        for first in PLACES[0]
        for place in range(1, 4)
        for other in PLACES[place]
    }
)


def answer(stages: Sequence[Stage], machine: str, number: int, arguments: Sequence[int]) -> int:
    """Return what these filters, of which the first was loaded first, say of a call together."""
    data = struct.pack("<IIQ6Q", number, MACHINES[machine], 0, *arguments, 0, 0)
    answers = [run(FILTERS[machine, stage], data) for stage in reversed(stages)]
    # The kernel takes the one of the least number, signed, of those the last that was loaded.
    return min(answers, key=lambda one: struct.unpack("<i", struct.pack("<I", one & 0xFFFF0000)))


def run(code: Sequence[tuple[int, int, int, int]], data: bytes) -> int:
    """Run a filter, as the kernel does."""
    word, at = 0, 0
    while True:
        kind, if_true, if_false, value = code[at]
        at += 1
        match kind:
            case 0x20:
                (word,) = struct.unpack_from("<I", data, value)
            case 0x54:
                word &= value
            case 0x06:
                return value
            case bpf.JUMP_EQUAL:
                at += if_true if word == value else if_false
            case bpf.JUMP_GREATER_EQUAL:
                at += if_true if word >= value else if_false
            case bpf.JUMP_ANY_BIT:
                at += if_true if word & value else if_false
            case _:
                raise AssertionError(kind)


def _filters() -> Iterator[tuple[tuple[str, Stage], list[tuple[int, int, int, int]]]]:
    with pytest.MonkeyPatch.context() as patch:
        for machine in MACHINES:
            patch.setattr(platform, "machine", lambda machine=machine: machine)
            for stage in Stage:
                yield (machine, stage), list(struct.iter_unpack("<HBBI", Filter(stage).code))


FILTERS = dict(_filters())


def named(machine: str, name: str) -> int:
    """Return the number of a call; one that there is none of where the machine has no such call."""
    column = list(MACHINES).index(machine)
    return (SYSCALL_NUMBERS | FORKING_SYSCALL_NUMBERS)[name][column] or 599


@pytest.mark.parametrize("machine", MACHINES)
def test_a_templates_child_may_do_what_any_child_may(machine: str) -> None:
    """The same answers to all, be they an error's number."""
    known = {named(machine, name) for name in SYSCALL_NUMBERS | FORKING_SYSCALL_NUMBERS}
    for number in NUMBERS:
        # What no filter knows needs no looking at its arguments.
        for arguments in ARGUMENTS if number in known else ARGUMENTS[:2]:
            ordinary = answer(ORDINARY, machine, number, arguments)
            assert answer(FROM_A_TEMPLATE, machine, number, arguments) == ordinary, (
                number,
                arguments,
            )


@pytest.mark.parametrize("machine", MACHINES)
def test_a_template_may_do_no_more_than_fork(machine: str) -> None:
    """What it may do beyond a job are the calls that forking takes, and few of their arguments."""
    more = set()
    for name in SYSCALL_NUMBERS | FORKING_SYSCALL_NUMBERS:
        number = named(machine, name)
        for arguments in ARGUMENTS:
            ordinary = answer(ORDINARY, machine, number, arguments)
            if answer(A_TEMPLATE, machine, number, arguments) != ordinary:
                more.add(name)
    available = {name for name in FORKING_SYSCALL_NUMBERS if named(machine, name) != 599}
    assert more == available | {"clone", "prctl", "prlimit64"}


@pytest.mark.parametrize(
    ("name", "arguments", "is_allowed"),
    [
        ("clone", (FORK, 0, 0, 0), True),
        ("clone", (THREAD, 0, 0, 0), True),
        ("clone", (FORK | CLONE_PARENT, 0, 0, 0), False),
        ("clone", (FORK | CLONE_VM, 0, 0, 0), False),
        ("clone", (FORK | CLONE_NEWUSER, 0, 0, 0), False),
        ("clone", (0, 0, 0, 0), False),
        ("prctl", (1, signal.SIGKILL, 0, 0), True),
        ("prctl", (1, 0, 0, 0), False),
        ("prctl", (36, 1, 0, 0), False),
        ("socketpair", (socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0, 0), True),
        ("socketpair", (socket.AF_UNIX, socket.SOCK_DGRAM, 0, 0), False),
        ("socketpair", (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, 0), False),
        ("socketpair", (socket.AF_INET, socket.SOCK_STREAM, 0, 0), False),
        ("prlimit64", (0, 7, 1, 0), True),
        ("prlimit64", (1, 7, 1, 0), False),
        ("openat", (0, 0, 0, 0), False),
        ("mprotect", (0, 0, mmap.PROT_READ, 0), False),
    ],
)
@pytest.mark.parametrize("machine", MACHINES)
def test_a_template_may_do_this_and_not_that(
    machine: str, name: str, arguments: tuple[int, int, int, int], *, is_allowed: bool
) -> None:
    """It forks processes that die with it, and speaks to them and the daemon alone."""
    said = answer(A_TEMPLATE, machine, named(machine, name), arguments)
    assert (said == bpf.ALLOW) is is_allowed
