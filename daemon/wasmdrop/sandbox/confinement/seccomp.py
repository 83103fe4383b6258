"""The system calls that a sandbox child may make, as a seccomp filter (seccomp(2)).

Everything else kills the process. The list is what interpreter, wasmtime and the threads of its
WASI implementation were seen to need once an order has been received, and no more: no sockets, no
new processes, no other process's affairs, no file opened but for reading. A few calls that probe
harmlessly get an error instead, so that libraries fall back as they would on an old kernel.

A job that has a directory of its own gets a wider filter: with the calls that WASI's files take,
which Landlock keeps to that directory.
"""

import ctypes
import errno
import mmap
import os
import platform
from enum import Enum, auto
from typing import Final

from wasmdrop.sandbox.confinement.bpf import (
    ALLOW,
    ARGUMENTS,
    ERRNO,
    JUMP_ANY_BIT,
    JUMP_EQUAL,
    JUMP_GREATER_EQUAL,
    KILL_PROCESS,
    end,
    jump,
    keep_bits,
    load_argument,
    load_word,
)

__all__ = ["SYSCALL_NUMBERS", "Filter", "Stage", "load"]

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2

# struct seccomp_data: number, architecture, instruction pointer, six arguments of 64 bits.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4

_AUDIT_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: So many numbers are not halved any further.
_SEARCHED_IN_TURN: Final = 3

_CLONE_VM: Final = 0x00000100
#: How fork(3) calls clone(2): with SIGCHLD, CLONE_CHILD_SETTID and CLONE_CHILD_CLEARTID.
_FORK_MAY: Final = 0x01000000 | 0x00200000
_SIGCHLD: Final = 17
_SIGKILL: Final = 9
_AF_UNIX: Final = 1
_SOCK_STREAM: Final = 1
_SOCK_MAY: Final = 0o4000 | 0o2000000  # SOCK_NONBLOCK, SOCK_CLOEXEC
_CLONE_THREAD: Final = 0x00010000
#: What makes an opening more than one for reading; ``O_PATH`` is none that Landlock judges.
_OPEN_MORE: Final = (
    os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_PATH | 0x400000  # O_TMPFILE
)
#: MAP_SHARED and MAP_GROWSDOWN: ``RLIMIT_DATA`` counts neither.
_MAP_UNCOUNTED: Final = 0x01 | 0x100
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_FCNTL_ALLOWED: Final = (1, 2, 3, 1030)  # F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC

#: Numbers on x86-64 and on 64-bit ARM (asm/unistd.h); None where an architecture has no such call.
SYSCALL_NUMBERS: Final[dict[str, tuple[int | None, int | None]]] = {
    "brk": (12, 214),
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close": (3, 57),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22),
    "epoll_wait": (232, None),
    "eventfd2": (290, 19),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "fcntl": (72, 25),
    "fstat": (5, 80),
    "futex": (202, 98),
    "getcwd": (79, 17),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "ioctl": (16, 29),
    "kill": (62, 129),
    "lseek": (8, 62),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    "memfd_create": (319, 279),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "newfstatat": (262, 79),
    "openat": (257, 56),
    "poll": (7, None),
    "ppoll": (271, 73),
    "prctl": (157, 167),
    "pread64": (17, 67),
    "prlimit64": (302, 261),
    "pwrite64": (18, 68),
    "read": (0, 63),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "set_robust_list": (273, 99),
    "sigaltstack": (131, 132),
    "statx": (332, 291),
    "sysinfo": (99, 179),
    "tgkill": (234, 131),
    "uname": (63, 160),
    "write": (1, 64),
    "writev": (20, 66),
}

#: What WASI's files take besides. A filter can't see paths: which files these may touch is
#: Landlock's to say. Not here: changing modes or owners, sockets, devices, mounts.
DIRECTORY_SYSCALL_NUMBERS: Final[dict[str, tuple[int | None, int | None]]] = {
    "copy_file_range": (326, 285),
    "dup": (32, 23),
    "faccessat": (269, 48),
    "fadvise64": (221, 223),
    "fallocate": (285, 47),
    "fdatasync": (75, 83),
    "fstatfs": (138, 44),
    "fsync": (74, 82),
    "ftruncate": (77, 46),
    "getdents64": (217, 61),
    "linkat": (265, 37),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "openat2": (437, 437),
    "preadv": (295, 69),
    "preadv2": (327, 286),
    "pwritev": (296, 70),
    "pwritev2": (328, 287),
    "readlinkat": (267, 78),
    "readv": (19, 65),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "symlinkat": (266, 36),
    "unlinkat": (263, 35),
    "utimensat": (280, 88),
}

#: What a template takes besides: to be asked for children, to fork and to reap them.
FORKING_SYSCALL_NUMBERS: Final[dict[str, tuple[int | None, int | None]]] = {
    "close_range": (436, 436),
    "dup2": (33, None),
    "dup3": (292, 24),
    "getppid": (110, 173),
    "getsockname": (51, 204),
    "getsockopt": (55, 209),
    "pidfd_open": (434, 434),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "socketpair": (53, 199),
    "wait4": (61, 260),
}

#: What libraries ask and can do without. ``abort`` raises by ``tgkill`` and then faults instead.
_REFUSED: Final = {
    "clone3": errno.ENOSYS,  # its flags are out of a filter's sight; libc falls back to clone
    "getcwd": errno.EPERM,
    "ioctl": errno.ENOTTY,
    "memfd_create": errno.ENOSYS,  # memory that no limit counts; wasmtime does without
    "kill": errno.EPERM,
    "readlink": errno.EPERM,
    "readlinkat": errno.EPERM,
    "sysinfo": errno.EPERM,
    "tgkill": errno.EPERM,
    "uname": errno.EPERM,
}

#: Calls that are judged by their arguments, and by which of the judgements in :func:`_check`.
_CHECKED: Final = {
    name: name for name in ("clone", "fcntl", "mmap", "openat", "prctl", "prlimit64")
}
_DIRECTORY_CHECKED: Final = {name: by for name, by in _CHECKED.items() if name != "openat"}
_FORKING_CHECKED: Final = _CHECKED | {
    "clone": "fork",
    "prctl": "prctl with a parent's death",
    "prlimit64": "prlimit64 of its own",
    "socketpair": "socketpair",
}
_DIRECTORY_REFUSED: Final = {
    name: number for name, number in _REFUSED.items() if name != "readlinkat"
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


class Stage(Enum):
    """What a filter is for; each comes on top of those before it."""

    ENTERED = auto()
    """All that any child needs."""
    ENTERED_WITH_FILES = auto()
    """And what WASI's files take, for a job that has a directory."""
    INVOKED = auto()
    """What ENTERED and RUNNING leave, in one: for a child that has its machine code already."""
    ZYGOTE = auto()
    """All that any child needs, and to fork such children."""
    WITHOUT_PATHS = auto()
    """No file is opened any more."""
    RUNNING = auto()
    """Nor is memory taken out of what ``RLIMIT_DATA`` counts, as compiling and loading do."""
    RUNNING_WITH_FILES = auto()
    """The latter alone, for a job that has a directory."""
    RUNNING_WITH_GRANTS = auto()
    """And no times are set: of all that changes a file, Landlock has no right for that alone."""


#: What tells of any path whether it is there: Landlock has no right for that.
_ON_PATHS: Final = ("newfstatat", "openat", "statx")

#: Of the filters that stand by themselves: what is known, what is refused, what is checked.
_TABLES: Final = {
    Stage.ENTERED: (SYSCALL_NUMBERS, _REFUSED, _CHECKED),
    Stage.ENTERED_WITH_FILES: (
        SYSCALL_NUMBERS | DIRECTORY_SYSCALL_NUMBERS,
        _DIRECTORY_REFUSED,
        _DIRECTORY_CHECKED,
    ),
    Stage.INVOKED: (
        SYSCALL_NUMBERS,
        _REFUSED | dict.fromkeys(_ON_PATHS, errno.EPERM),
        _CHECKED | {"mprotect": "mprotect"},
    ),
    Stage.ZYGOTE: (SYSCALL_NUMBERS | FORKING_SYSCALL_NUMBERS, _REFUSED, _FORKING_CHECKED),
}


class Filter:
    """A filter for this machine, built once and loaded in every child."""

    def __init__(self, stage: Stage) -> None:
        machine = platform.machine()
        if machine not in _AUDIT_ARCHITECTURE:
            raise OSError(errno.ENOSYS, f"no seccomp filter is known for {machine}")
        if stage in _TABLES:
            instructions = _instructions(machine, *_TABLES[stage])
        else:
            instructions = _later_instructions(_numbers(machine, SYSCALL_NUMBERS), stage)
        self.code = b"".join(instructions)
        self._buffer = ctypes.create_string_buffer(self.code, len(self.code))
        self._program = _Program(len(self.code) // 8, ctypes.addressof(self._buffer))

    @property
    def address(self) -> int:
        """Where the kernel finds the program."""
        return ctypes.addressof(self._program)


def load(program: Filter, libc: ctypes.CDLL) -> None:
    """Bind the calling process, for good, to ``program``; ``OSError`` where the kernel has none."""
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_void_p(program.address), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _numbers(machine: str, table: dict[str, tuple[int | None, int | None]]) -> dict[str, int]:
    column = 0 if machine == "x86_64" else 1
    return {name: number for name, both in table.items() if (number := both[column]) is not None}


def _later_instructions(numbers: dict[str, int], stage: Stage) -> list[bytes]:
    code = [load_word(_NUMBER)]
    if stage is Stage.RUNNING_WITH_GRANTS:
        number = _numbers(platform.machine(), DIRECTORY_SYSCALL_NUMBERS)["utimensat"]
        code += [jump(JUMP_EQUAL, number, 0, 1), end(ERRNO | errno.EPERM)]
    elif stage is not Stage.RUNNING_WITH_FILES:
        for name in _ON_PATHS:
            code += [jump(JUMP_EQUAL, numbers[name], 0, 1), end(ERRNO | errno.EPERM)]
    if stage is not Stage.WITHOUT_PATHS:
        checks = _check("mprotect")
        code += [jump(JUMP_EQUAL, numbers["mprotect"], 0, len(checks)), *checks]
    # The kernel takes the strictest answer of all filters: this one has no need to forbid the rest.
    return [*code, end(ALLOW)]


def _instructions(
    machine: str,
    known: dict[str, tuple[int | None, int | None]],
    refused: dict[str, int],
    checked: dict[str, str],
) -> list[bytes]:
    branches = []
    for name, number in _numbers(machine, known).items():
        if name in refused:
            branches.append((number, [end(ERRNO | refused[name])]))
        else:
            then = _check(checked[name]) if name in checked else [end(ALLOW)]
            branches.append((number, then))
    return [
        load_word(_ARCHITECTURE),
        jump(JUMP_EQUAL, _AUDIT_ARCHITECTURE[machine], 1, 0),
        end(KILL_PROCESS),
        load_word(_NUMBER),
        # x32's numbers, a second set of entrances to the same kernel, are beyond all of these.
        *_search(sorted(branches)),
    ]


def _search(branches: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """Return a search for the loaded number among sorted ones; each leads to what then returns.

    By halves: when it takes a filter the kernel runs it for each number that there is, in every
    child.
    """
    if len(branches) <= _SEARCHED_IN_TURN:
        code = []
        for number, then in branches:
            code += [jump(JUMP_EQUAL, number, 0, len(then)), *then]
        return [*code, end(KILL_PROCESS)]
    middle = len(branches) // 2
    lower, upper = _search(branches[:middle]), _search(branches[middle:])
    return [jump(JUMP_GREATER_EQUAL, branches[middle][0], len(lower), 0), *lower, *upper]


def _check(name: str) -> list[bytes]:
    """Return the instructions that judge a call by its arguments, and then return."""
    if name == "mprotect":
        return [
            load_argument(2),
            jump(JUMP_ANY_BIT, mmap.PROT_WRITE, 1, 0),
            end(ERRNO | errno.EPERM),
            end(ALLOW),
        ]
    if name == "clone":
        wanted = _CLONE_VM | _CLONE_THREAD
        return [
            load_argument(0),
            keep_bits(wanted),
            jump(JUMP_EQUAL, wanted, 0, 1),
            end(ALLOW),
            end(KILL_PROCESS),
        ]
    if name == "openat":
        return [
            load_argument(2),
            jump(JUMP_ANY_BIT, _OPEN_MORE, 0, 1),
            end(KILL_PROCESS),
            end(ALLOW),
        ]
    if name == "mmap":
        return [
            load_argument(3),
            jump(JUMP_ANY_BIT, _MAP_UNCOUNTED, 0, 1),
            end(ERRNO | errno.EPERM),
            end(ALLOW),
        ]
    if name == "fcntl":
        # F_SETFL is not among them: WASI can do without changing flags of an open file.
        tests = [
            jump(JUMP_EQUAL, command, len(_FCNTL_ALLOWED) - index, 0)
            for index, command in enumerate(_FCNTL_ALLOWED)
        ]
        return [load_argument(1), *tests, end(ERRNO | errno.EPERM), end(ALLOW)]
    if name == "prctl":
        return [
            load_argument(0),
            jump(JUMP_EQUAL, _PR_SET_NAME, 1, 0),
            # A further filter can only forbid more.
            jump(JUMP_EQUAL, _PR_SET_SECCOMP, 0, 1),
            end(ALLOW),
            end(ERRNO | errno.EPERM),
        ]
    if name != "prlimit64":
        return _check_forking(name)
    # Only to read, and only one's own. Both halves of the pointer must be nothing.
    return [
        load_argument(0),
        jump(JUMP_EQUAL, 0, 0, 5),
        load_argument(2),
        jump(JUMP_EQUAL, 0, 0, 3),
        load_word(ARGUMENTS + 2 * 8 + 4),
        jump(JUMP_EQUAL, 0, 0, 1),
        end(ALLOW),
        end(ERRNO | errno.EPERM),
    ]


def _check_forking(name: str) -> list[bytes]:
    """Do as :func:`_check`, for the calls of a process that forks."""
    if name == "fork":
        # Or what else a child may: this filter is its, too.
        return [
            load_argument(0),
            keep_bits(~_FORK_MAY),
            jump(JUMP_EQUAL, _SIGCHLD, 0, 1),
            end(ALLOW),
            *_check("clone"),
        ]
    if name == "socketpair":
        # Not of datagrams: one end could send them to any socket in a directory, which are out of
        # Landlock's sight. A stream has no other peer than its own.
        return [
            load_argument(0),
            jump(JUMP_EQUAL, _AF_UNIX, 0, 4),
            load_argument(1),
            keep_bits(~_SOCK_MAY),
            jump(JUMP_EQUAL, _SOCK_STREAM, 0, 1),
            end(ALLOW),
            end(KILL_PROCESS),
        ]
    if name == "prctl with a parent's death":
        # To die with its parent, and not to outlive it.
        return [
            load_argument(0),
            jump(JUMP_EQUAL, _PR_SET_NAME, 4, 0),
            jump(JUMP_EQUAL, _PR_SET_SECCOMP, 3, 0),
            jump(JUMP_EQUAL, _PR_SET_PDEATHSIG, 0, 3),
            load_argument(1),
            jump(JUMP_EQUAL, _SIGKILL, 0, 1),
            end(ALLOW),
            end(ERRNO | errno.EPERM),
        ]
    # prlimit64: one's own.
    return [
        load_argument(0),
        jump(JUMP_EQUAL, 0, 0, 1),
        end(ALLOW),
        end(ERRNO | errno.EPERM),
    ]
