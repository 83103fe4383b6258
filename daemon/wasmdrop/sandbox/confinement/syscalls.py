"""The system calls that a confined process may make, as data: one table per role.

To allow a system call, add one line to the table of the roles that need it. :mod:`.seccomp`
compiles the tables and has no rules of its own.

A call that is not in the table kills the process. The tables hold the calls that the interpreter,
wasmtime and the threads of its WASI implementation were observed to make after a request arrived:
no sockets, no new processes, nothing that affects another process, no file opened except for
reading. A few harmless probes fail with an error instead, so that libraries fall back as on an old
kernel.
"""

import errno
import mmap
import os
from enum import Enum, auto
from typing import Final, NamedTuple

# Answers of a filter (linux/seccomp.h).
ALLOW: Final = 0x7FFF0000
KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000


class Condition(NamedTuple):
    """A test of one word of an argument: ``word & mask == value``."""

    argument: int
    value: int
    mask: int = 0xFFFFFFFF
    is_upper_half: bool = False
    """Which half of the 64-bit argument is tested; flags and commands have only the lower one."""


class Check(NamedTuple):
    """Allow a call if all conditions of any alternative hold."""

    alternatives: tuple[tuple[Condition, ...], ...]
    otherwise: int


Rule = int | Check
"""An answer, or the check that finds it."""


class Syscall(NamedTuple):
    """A system call: its numbers (asm/unistd.h) and its rule."""

    x86_64: int | None
    """None if the architecture has no such call."""
    aarch64: int | None
    rule: Rule = ALLOW


class Policy(NamedTuple):
    """The rules of a role by system call."""

    rules: dict[str, Rule]
    otherwise: int = KILL_PROCESS


class Role(Enum):
    """The role of a process that loads a filter.

    A process loads one of the first four, and a later one on top of it. The kernel takes the
    strictest answer of all loaded filters, so the later ones list only restrictions.
    """

    CHILD = auto()
    """A child of the fork server."""
    CHILD_WITH_DIRECTORY = auto()
    """A child whose job has a directory of its own."""
    ZYGOTE = auto()
    """A zygote, which forks children."""
    ZYGOTE_WITH_DIRECTORIES = auto()
    """A zygote whose children have directories of their own."""
    ZYGOTE_CHILD = auto()
    """A child of a zygote, which has its machine code: CHILD and RUNNING in one filter."""
    ZYGOTE_CHILD_WITH_DIRECTORY = auto()
    """CHILD_WITH_DIRECTORY and RUNNING_WITH_DIRECTORY in one filter."""
    ZYGOTE_CHILD_WITH_GRANTS = auto()
    """CHILD_WITH_DIRECTORY and RUNNING_WITH_GRANTS in one filter."""
    COMPILING = auto()
    """A process that opens no more files."""
    RUNNING = auto()
    """A process that opens no more files and has loaded its machine code."""
    RUNNING_WITH_DIRECTORY = auto()
    """A process with a directory that has loaded its machine code."""
    RUNNING_WITH_GRANTS = auto()
    """The same, with granted directories, whose file times Landlock has no right to protect."""


def _fail(number: int) -> int:
    return _ERRNO | number


def _one_of(argument: int, *values: int) -> tuple[tuple[Condition, ...], ...]:
    return tuple((Condition(argument, value),) for value in values)


def _has_all(argument: int, bits: int) -> tuple[Condition, ...]:
    return (Condition(argument, bits, bits),)


def _has_none(argument: int, bits: int) -> tuple[Condition, ...]:
    return (Condition(argument, 0, bits),)


_EPERM: Final = _fail(errno.EPERM)
_ENOSYS: Final = _fail(errno.ENOSYS)

# Constants of linux/sched.h, linux/prctl.h, asm-generic/fcntl.h and asm-generic/mman-common.h.
_CLONE_VM, _CLONE_THREAD = 0x00000100, 0x00010000
_CLONE_CHILD_SETTID, _CLONE_CHILD_CLEARTID = 0x01000000, 0x00200000
_SIGKILL, _SIGCHLD = 9, 17
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_SECCOMP = 1, 15, 22
_F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC = 1, 2, 3, 1030
_O_TMPFILE: Final = 0x400000
_MAP_SHARED, _MAP_GROWSDOWN = 0x01, 0x100
_AF_UNIX, _SOCK_STREAM, _SOCK_NONBLOCK, _SOCK_CLOEXEC = 1, 1, 0o4000, 0o2000000

_STARTS_THREAD: Final = _has_all(0, _CLONE_VM | _CLONE_THREAD)
#: How fork(3) calls clone(2).
_FORKS: Final = (Condition(0, _SIGCHLD, ~(_CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID)),)
_THREADS_ONLY: Final = Check((_STARTS_THREAD,), KILL_PROCESS)
#: A zygote's children inherit its filter, so it must allow their threads, too.
_FORKS_AND_THREADS: Final = Check((_FORKS, _STARTS_THREAD), KILL_PROCESS)
#: F_SETFL is missing: WASI does not need to change the flags of an open file.
_FCNTL: Final = Check(_one_of(1, _F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC), _EPERM)
#: ``RLIMIT_DATA`` counts neither of these mappings.
_COUNTED_MEMORY: Final = Check((_has_none(3, _MAP_SHARED | _MAP_GROWSDOWN),), _EPERM)
#: Memory made unwritable leaves the count of ``RLIMIT_DATA``; only compiling and loading need that.
_WRITABLE_ONLY: Final = Check((_has_all(2, mmap.PROT_WRITE),), _EPERM)
#: Landlock does not judge an open with ``O_PATH``.
_READ_ONLY: Final = Check(
    (_has_none(2, os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_PATH | _O_TMPFILE),),
    KILL_PROCESS,
)
#: A further filter can only forbid more.
_PRCTL: Final = Check(_one_of(0, _PR_SET_NAME, _PR_SET_SECCOMP), _EPERM)
_PRCTL_OF_ZYGOTE: Final = Check(
    (
        *_one_of(0, _PR_SET_NAME, _PR_SET_SECCOMP),
        # A child asks to die with its parent.
        (Condition(0, _PR_SET_PDEATHSIG), Condition(1, _SIGKILL)),
    ),
    _EPERM,
)
#: Read its own limits: process 0, and no pointer to new limits.
_READ_OWN_LIMITS: Final = Check(
    ((Condition(0, 0), Condition(2, 0), Condition(2, 0, is_upper_half=True)),), _EPERM
)
_OWN_LIMITS: Final = Check(((Condition(0, 0),),), _EPERM)
#: No datagrams: one end could send them to any socket in a directory, which Landlock does not see.
#: A stream has no other peer than its own.
_STREAM_PAIR: Final = Check(
    (
        (
            Condition(0, _AF_UNIX),
            Condition(1, _SOCK_STREAM, ~(_SOCK_NONBLOCK | _SOCK_CLOEXEC)),
        ),
    ),
    KILL_PROCESS,
)

#: The calls of any child.
_COMMON: Final = {
    "brk": Syscall(12, 214),
    "clock_getres": Syscall(229, 114),
    "clock_gettime": Syscall(228, 113),
    "clock_nanosleep": Syscall(230, 115),
    "clone": Syscall(56, 220, _THREADS_ONLY),
    "clone3": Syscall(435, 435, _ENOSYS),  # a filter can't see its flags; libc falls back to clone
    "close": Syscall(3, 57),
    "epoll_create1": Syscall(291, 20),
    "epoll_ctl": Syscall(233, 21),
    "epoll_pwait": Syscall(281, 22),
    "epoll_wait": Syscall(232, None),
    "eventfd2": Syscall(290, 19),
    "exit": Syscall(60, 93),
    "exit_group": Syscall(231, 94),
    "fcntl": Syscall(72, 25, _FCNTL),
    "fstat": Syscall(5, 80),
    "futex": Syscall(202, 98),
    "getcwd": Syscall(79, 17, _EPERM),
    "getpid": Syscall(39, 172),
    "getrandom": Syscall(318, 278),
    "gettid": Syscall(186, 178),
    "gettimeofday": Syscall(96, 169),
    "ioctl": Syscall(16, 29, _fail(errno.ENOTTY)),
    "kill": Syscall(62, 129, _EPERM),
    "lseek": Syscall(8, 62),
    "madvise": Syscall(28, 233),
    "membarrier": Syscall(324, 283),
    "memfd_create": Syscall(
        319, 279, _ENOSYS
    ),  # no limit counts its memory; wasmtime works without
    "mmap": Syscall(9, 222, _COUNTED_MEMORY),
    "mprotect": Syscall(10, 226),
    "mremap": Syscall(25, 216),
    "munmap": Syscall(11, 215),
    "nanosleep": Syscall(35, 101),
    "newfstatat": Syscall(262, 79),
    "openat": Syscall(257, 56, _READ_ONLY),
    "poll": Syscall(7, None),
    "ppoll": Syscall(271, 73),
    "prctl": Syscall(157, 167, _PRCTL),
    "pread64": Syscall(17, 67),
    "prlimit64": Syscall(302, 261, _READ_OWN_LIMITS),
    "pwrite64": Syscall(18, 68),
    "read": Syscall(0, 63),
    "readlink": Syscall(89, None, _EPERM),
    "readlinkat": Syscall(267, 78, _EPERM),
    "restart_syscall": Syscall(219, 128),
    "rseq": Syscall(334, 293),
    "rt_sigaction": Syscall(13, 134),
    "rt_sigprocmask": Syscall(14, 135),
    "rt_sigreturn": Syscall(15, 139),
    "sched_getaffinity": Syscall(204, 123),
    "sched_yield": Syscall(24, 124),
    "set_robust_list": Syscall(273, 99),
    "sigaltstack": Syscall(131, 132),
    "statx": Syscall(332, 291),
    "sysinfo": Syscall(99, 179, _EPERM),
    "tgkill": Syscall(234, 131, _EPERM),  # without it, abort(3) ends by a fault instead of a signal
    "uname": Syscall(63, 160, _EPERM),
    "write": Syscall(1, 64),
    "writev": Syscall(20, 66),
}

#: The further calls of WASI's file functions. A filter can't see paths: Landlock keeps these calls
#: to the job's own directory. Not here: changing modes or owners, sockets, devices, mounts.
_DIRECTORY: Final = {
    "copy_file_range": Syscall(326, 285),
    "dup": Syscall(32, 23),
    "faccessat": Syscall(269, 48),
    "fadvise64": Syscall(221, 223),
    "fallocate": Syscall(285, 47),
    "fdatasync": Syscall(75, 83),
    "fstatfs": Syscall(138, 44),
    "fsync": Syscall(74, 82),
    "ftruncate": Syscall(77, 46),
    "getdents64": Syscall(217, 61),
    "linkat": Syscall(265, 37),
    "mkdir": Syscall(83, None),
    "mkdirat": Syscall(258, 34),
    "openat": Syscall(257, 56),
    "openat2": Syscall(437, 437),
    "preadv": Syscall(295, 69),
    "preadv2": Syscall(327, 286),
    "pwritev": Syscall(296, 70),
    "pwritev2": Syscall(328, 287),
    "readlinkat": Syscall(267, 78),
    "readv": Syscall(19, 65),
    "renameat": Syscall(264, 38),
    "renameat2": Syscall(316, 276),
    "symlinkat": Syscall(266, 36),
    "unlinkat": Syscall(263, 35),
    "utimensat": Syscall(280, 88),
}

#: The further calls of a zygote: receiving requests, forking and reaping.
_FORKING: Final = {
    "clone": Syscall(56, 220, _FORKS_AND_THREADS),
    "close_range": Syscall(436, 436),
    "dup2": Syscall(33, None),
    "dup3": Syscall(292, 24),
    "getppid": Syscall(110, 173),
    "pidfd_open": Syscall(434, 434),
    "prctl": Syscall(157, 167, _PRCTL_OF_ZYGOTE),
    "prlimit64": Syscall(302, 261, _OWN_LIMITS),
    "recvmsg": Syscall(47, 212),
    "sendmsg": Syscall(46, 211),
    "socketpair": Syscall(53, 199, _STREAM_PAIR),
    "wait4": Syscall(61, 260),
}

#: The further calls of a zygote whose children confine themselves to their directories.
_RESTRICTING: Final = {
    "landlock_add_rule": Syscall(445, 445),
    "landlock_create_ruleset": Syscall(444, 444),
    "landlock_restrict_self": Syscall(446, 446),
}

#: Each reveals whether any path exists, for which Landlock has no right.
_NO_PATHS: Final[dict[str, Rule]] = dict.fromkeys(("newfstatat", "openat", "statx"), _EPERM)
_NO_NEW_CODE: Final[dict[str, Rule]] = {"mprotect": _WRITABLE_ONLY}
_NO_FILE_TIMES: Final[dict[str, Rule]] = {"utimensat": _EPERM}

#: Numbers by architecture and name.
NUMBERS: Final[dict[str, dict[str, int]]] = {
    architecture: {
        name: number
        for name, syscall in (_COMMON | _DIRECTORY | _FORKING | _RESTRICTING).items()
        if (number := getattr(syscall, architecture)) is not None
    }
    for architecture in ("x86_64", "aarch64")
}


def _rules(table: dict[str, Syscall]) -> dict[str, Rule]:
    return {name: syscall.rule for name, syscall in table.items()}


POLICIES: Final = {
    Role.CHILD: Policy(_rules(_COMMON)),
    Role.CHILD_WITH_DIRECTORY: Policy(_rules(_COMMON | _DIRECTORY)),
    Role.ZYGOTE: Policy(_rules(_COMMON | _FORKING)),
    Role.ZYGOTE_WITH_DIRECTORIES: Policy(_rules(_COMMON | _DIRECTORY | _FORKING | _RESTRICTING)),
    Role.ZYGOTE_CHILD: Policy(_rules(_COMMON) | _NO_PATHS | _NO_NEW_CODE),
    Role.ZYGOTE_CHILD_WITH_DIRECTORY: Policy(_rules(_COMMON | _DIRECTORY) | _NO_NEW_CODE),
    Role.ZYGOTE_CHILD_WITH_GRANTS: Policy(
        _rules(_COMMON | _DIRECTORY) | _NO_NEW_CODE | _NO_FILE_TIMES
    ),
    Role.COMPILING: Policy(_NO_PATHS, ALLOW),
    Role.RUNNING: Policy(_NO_PATHS | _NO_NEW_CODE, ALLOW),
    Role.RUNNING_WITH_DIRECTORY: Policy(_NO_NEW_CODE, ALLOW),
    Role.RUNNING_WITH_GRANTS: Policy(_NO_NEW_CODE | _NO_FILE_TIMES, ALLOW),
}
