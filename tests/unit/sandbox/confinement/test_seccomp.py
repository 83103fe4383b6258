"""The answers of the seccomp filters, calculated by running their programs for calls and arguments.

A child of a zygote loads other filters than a child of the fork server. Both must get the same
answer to each system call, with each argument that any of the filters tests.
"""

import errno
import mmap
import os
import platform
import signal
import socket
import struct
from collections.abc import Iterator, Sequence

import pytest

from wasmdrop.sandbox.confinement import seccomp
from wasmdrop.sandbox.confinement.seccomp import SeccompFilter
from wasmdrop.sandbox.confinement.syscalls import ALLOW, KILL_PROCESS, NUMBERS, POLICIES, Role

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CHILD_OF_FORK_SERVER = (Role.CHILD, Role.RUNNING)
CHILD_OF_ZYGOTE = (Role.ZYGOTE, Role.RUNNING, Role.ZYGOTE_CHILD)
ZYGOTE = (Role.ZYGOTE, Role.RUNNING)
WITH_DIRECTORY = (Role.CHILD_WITH_DIRECTORY, Role.RUNNING_WITH_DIRECTORY)
WITH_GRANTS = (Role.CHILD_WITH_DIRECTORY, Role.RUNNING_WITH_GRANTS)
ZYGOTE_WITH_DIRECTORIES = (Role.ZYGOTE_WITH_DIRECTORIES, Role.RUNNING_WITH_DIRECTORY)
#: The filters of a child of the fork server, and of a child of a zygote in its place.
CHILDREN: dict[tuple[Role, ...], tuple[Role, ...]] = {
    CHILD_OF_FORK_SERVER: CHILD_OF_ZYGOTE,
    WITH_DIRECTORY: (*ZYGOTE_WITH_DIRECTORIES, Role.ZYGOTE_CHILD_WITH_DIRECTORY),
    WITH_GRANTS: (*ZYGOTE_WITH_DIRECTORIES, Role.ZYGOTE_CHILD_WITH_GRANTS),
}
COMPILER = (Role.CHILD, Role.COMPILING)

#: Numbers of existing calls, of none, and of the x32 ABI.
NUMBERS_TRIED = (*range(600), 0x40000000, 0x40000038, 0xFFFFFFFF)

EPERM, ENOSYS = (0x00050000 | number for number in (errno.EPERM, errno.ENOSYS))

CLONE_VM, CLONE_THREAD, CLONE_PARENT, CLONE_NEWUSER = 0x100, 0x10000, 0x8000, 0x10000000
#: The flags with which glibc forks and starts a thread by clone(2).
FORK = 0x01200000 | signal.SIGCHLD
THREAD = 0x3D0F00

#: Values that filters test, by the index of the argument.
VALUES = (
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

#: No filter tests more than the first argument and one other.
ARGUMENTS = sorted(
    {
        tuple(first if at == 0 else other if at == index else 0 for at in range(4))
        for first in VALUES[0]
        for index in range(1, 4)
        for other in VALUES[index]
    }
)


def answer(roles: Sequence[Role], architecture: str, number: int, arguments: Sequence[int]) -> int:
    """Return the combined answer of these filters to a call."""
    data = struct.pack("<IIQ6Q", number, ARCHITECTURES[architecture], 0, *arguments, 0, 0)
    answers = [run(FILTERS[architecture, role], data) for role in reversed(roles)]
    # The kernel takes the smallest action, as a signed number; among equals, of the last filter.
    return min(answers, key=lambda one: struct.unpack("<i", struct.pack("<I", one & 0xFFFF0000)))


def run(code: Sequence[tuple[int, int, int, int]], data: bytes) -> int:
    """Run a filter as the kernel does."""
    word, at = 0, 0
    while True:
        kind, if_true, if_false, value = code[at]
        at += 1
        match kind:
            case seccomp.LOAD_WORD:
                (word,) = struct.unpack_from("<I", data, value)
            case seccomp.AND:
                word &= value
            case seccomp.RETURN:
                return value
            case seccomp.JUMP_EQUAL:
                at += if_true if word == value else if_false
            case seccomp.JUMP_GREATER_EQUAL:
                at += if_true if word >= value else if_false
            case _:
                raise AssertionError(kind)


def _filters() -> Iterator[tuple[tuple[str, Role], list[tuple[int, int, int, int]]]]:
    with pytest.MonkeyPatch.context() as patch:
        for architecture in ARCHITECTURES:
            patch.setattr(platform, "machine", lambda machine=architecture: machine)
            for role in Role:
                code = list(struct.iter_unpack("<HBBI", SeccompFilter(role).code))
                yield (architecture, role), code


FILTERS = dict(_filters())


@pytest.mark.parametrize("child", CHILDREN, ids=["plain", "directory", "grants"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_filters_of_both_kinds_of_children_give_the_same_answers(
    architecture: str, child: tuple[Role, ...]
) -> None:
    """Including the number of an error."""
    known = set(NUMBERS[architecture].values())
    for number in NUMBERS_TRIED:
        # The arguments of an unknown call can't matter.
        for arguments in ARGUMENTS if number in known else ARGUMENTS[:2]:
            expected = answer(child, architecture, number, arguments)
            given = answer(CHILDREN[child], architecture, number, arguments)
            assert given == expected, (number, arguments)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_filter_of_zygote_adds_only_the_calls_for_forking(architecture: str) -> None:
    """Compared with a child, which is confined in the same way otherwise."""
    more = {
        name
        for name, number in NUMBERS[architecture].items()
        for arguments in ARGUMENTS
        if answer(ZYGOTE, architecture, number, arguments)
        != answer(CHILD_OF_FORK_SERVER, architecture, number, arguments)
    }
    forking = {
        *("clone", "close_range", "dup2", "dup3", "getppid", "getsockname", "getsockopt"),
        *("pidfd_open", "prctl", "prlimit64", "recvfrom", "recvmsg", "sendmsg", "sendto"),
        *("socketpair", "wait4"),
    }
    assert more == forking & NUMBERS[architecture].keys()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "role", [role for role, policy in POLICIES.items() if policy.otherwise == KILL_PROCESS]
)
def test_filter_kills_on_unknown_call_and_on_another_architecture(
    architecture: str, role: Role
) -> None:
    """Numbers mean other calls on another architecture."""
    known = {
        NUMBERS[architecture][name]
        for name in POLICIES[role].rules
        if name in NUMBERS[architecture]
    }
    for number in NUMBERS_TRIED:
        killed = answer((role,), architecture, number, (0, 0, 0, 0)) == KILL_PROCESS
        assert killed or number in known, number
    data = struct.pack("<IIQ6Q", NUMBERS[architecture]["read"], 0x40000003, 0, *[0] * 6)
    assert run(FILTERS[architecture, role], data) == KILL_PROCESS


@pytest.mark.parametrize(
    ("roles", "name", "arguments", "expected"),
    [
        (ZYGOTE, "clone", (FORK, 0, 0, 0), ALLOW),
        (ZYGOTE, "clone", (THREAD, 0, 0, 0), ALLOW),
        (ZYGOTE, "clone", (FORK | CLONE_PARENT, 0, 0, 0), KILL_PROCESS),
        (ZYGOTE, "clone", (FORK | CLONE_VM, 0, 0, 0), KILL_PROCESS),
        (ZYGOTE, "clone", (FORK | CLONE_NEWUSER, 0, 0, 0), KILL_PROCESS),
        (ZYGOTE, "clone", (0, 0, 0, 0), KILL_PROCESS),
        (ZYGOTE, "prctl", (1, signal.SIGKILL, 0, 0), ALLOW),
        (ZYGOTE, "prctl", (1, 0, 0, 0), EPERM),
        (ZYGOTE, "prctl", (36, 1, 0, 0), EPERM),
        (
            ZYGOTE,
            "socketpair",
            (socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0, 0),
            ALLOW,
        ),
        (ZYGOTE, "socketpair", (socket.AF_UNIX, socket.SOCK_DGRAM, 0, 0), KILL_PROCESS),
        (ZYGOTE, "socketpair", (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, 0), KILL_PROCESS),
        (ZYGOTE, "socketpair", (socket.AF_INET, socket.SOCK_STREAM, 0, 0), KILL_PROCESS),
        (ZYGOTE, "prlimit64", (0, 7, 1, 0), ALLOW),
        (ZYGOTE, "prlimit64", (1, 7, 1, 0), EPERM),
        (ZYGOTE, "openat", (0, 0, 0, 0), EPERM),
        (ZYGOTE, "mprotect", (0, 0, mmap.PROT_READ, 0), EPERM),
        (CHILD_OF_FORK_SERVER, "clone", (THREAD, 0, 0, 0), ALLOW),
        (CHILD_OF_FORK_SERVER, "clone", (FORK, 0, 0, 0), KILL_PROCESS),
        (CHILD_OF_FORK_SERVER, "clone3", (0, 0, 0, 0), ENOSYS),
        (CHILD_OF_FORK_SERVER, "prctl", (22, 2, 0, 0), ALLOW),
        (CHILD_OF_FORK_SERVER, "prctl", (1, signal.SIGKILL, 0, 0), EPERM),
        (CHILD_OF_FORK_SERVER, "prlimit64", (0, 7, 0, 0), ALLOW),
        (CHILD_OF_FORK_SERVER, "prlimit64", (0, 7, 1, 0), EPERM),
        (CHILD_OF_FORK_SERVER, "prlimit64", (0, 7, 1 << 32, 0), EPERM),
        (CHILD_OF_FORK_SERVER, "prlimit64", (1, 7, 0, 0), EPERM),
        (CHILD_OF_FORK_SERVER, "fcntl", (5, 1030, 0, 0), ALLOW),
        (CHILD_OF_FORK_SERVER, "fcntl", (5, 4, os.O_APPEND, 0), EPERM),
        (CHILD_OF_FORK_SERVER, "mmap", (0, 4096, 3, 0x22), ALLOW),
        (CHILD_OF_FORK_SERVER, "mmap", (0, 4096, 3, 0x21), EPERM),
        (CHILD_OF_FORK_SERVER, "mmap", (0, 4096, 3, 0x122), EPERM),
        (CHILD_OF_FORK_SERVER, "mprotect", (0, 0, mmap.PROT_WRITE, 0), ALLOW),
        (CHILD_OF_FORK_SERVER, "mprotect", (0, 0, mmap.PROT_READ, 0), EPERM),
        (CHILD_OF_FORK_SERVER, "statx", (0, 0, 0, 0), EPERM),
        (CHILD_OF_FORK_SERVER, "unlinkat", (0, 0, 0, 0), KILL_PROCESS),
        ((Role.CHILD,), "openat", (0, 0, os.O_CLOEXEC, 0), ALLOW),
        ((Role.CHILD,), "openat", (0, 0, os.O_RDWR, 0), KILL_PROCESS),
        ((Role.CHILD,), "openat", (0, 0, os.O_PATH, 0), KILL_PROCESS),
        (COMPILER, "openat", (0, 0, 0, 0), EPERM),
        (COMPILER, "mprotect", (0, 0, mmap.PROT_READ | mmap.PROT_EXEC, 0), ALLOW),
        (WITH_DIRECTORY, "openat", (0, 0, os.O_RDWR | os.O_CREAT, 0), ALLOW),
        (WITH_DIRECTORY, "statx", (0, 0, 0, 0), ALLOW),
        (WITH_DIRECTORY, "readlinkat", (0, 0, 0, 0), ALLOW),
        (WITH_DIRECTORY, "unlinkat", (0, 0, 0, 0), ALLOW),
        (WITH_DIRECTORY, "utimensat", (0, 0, 0, 0), ALLOW),
        (WITH_DIRECTORY, "mprotect", (0, 0, mmap.PROT_READ, 0), EPERM),
        (WITH_GRANTS, "utimensat", (0, 0, 0, 0), EPERM),
        (WITH_GRANTS, "unlinkat", (0, 0, 0, 0), ALLOW),
    ],
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_filters_of_role_answer_call_by_its_arguments(
    architecture: str,
    roles: tuple[Role, ...],
    name: str,
    arguments: tuple[int, int, int, int],
    expected: int,
) -> None:
    """Check the argument rules of each role."""
    assert answer(roles, architecture, NUMBERS[architecture][name], arguments) == expected
