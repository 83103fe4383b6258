"""Raw system calls, and the registry of the escape attempts that use them.

The C library hides the calls that a filter sees (``fork`` becomes ``clone``, ``open`` becomes
``openat``), so an attempt names the exact call.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.support.security.world import World

libc: Final = ctypes.CDLL(None, use_errno=True)

Attack = Callable[["World"], str]

#: Numbers on x86-64 and on 64-bit ARM; None if the architecture has no such call.
NUMBERS: Final[dict[str, tuple[int | None, int | None]]] = {
    "access": (21, None),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bind": (49, 200),
    "bpf": (321, 280),
    "capset": (126, 91),
    "chmod": (90, None),
    "chown": (92, None),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "creat": (85, None),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "fchmodat": (268, 53),
    "fchownat": (260, 54),
    "fcntl": (72, 25),
    "finit_module": (313, 273),
    "fork": (57, None),
    "fsopen": (430, 430),
    "fstat": (5, 80),
    "getdents64": (217, 61),
    "init_module": (175, 105),
    "inotify_init1": (294, 26),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioperm": (173, None),
    "iopl": (172, None),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "linkat": (265, 37),
    "lookup_dcookie": (212, 18),
    "memfd_create": (319, 279),
    "mkdirat": (258, 34),
    "mknodat": (259, 33),
    "mmap": (9, 222),
    "mount": (165, 40),
    "mprotect": (10, 226),
    "mq_open": (240, 180),
    "munmap": (11, 215),
    "name_to_handle_at": (303, 264),
    "newfstatat": (262, 79),
    "open": (2, None),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "openat": (257, 56),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pipe2": (293, 59),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "pwrite64": (18, 68),
    "quotactl": (179, 60),
    "read": (0, 63),
    "readlinkat": (267, 78),
    "reboot": (169, 142),
    "renameat2": (316, 276),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "seccomp": (317, 277),
    "sendmsg": (46, 211),
    "setdomainname": (171, 162),
    "setgid": (106, 144),
    "setgroups": (116, 159),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "setresuid": (117, 147),
    "setrlimit": (160, 164),
    "setsid": (112, 157),
    "settimeofday": (164, 170),
    "setuid": (105, 146),
    "setxattr": (188, 5),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "statx": (332, 291),
    "swapon": (167, 224),
    "symlinkat": (266, 36),
    "syslog": (103, 116),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "truncate": (76, 45),
    "umount2": (166, 39),
    "unlinkat": (263, 35),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "utimensat": (280, 88),
    "vfork": (58, None),
    "write": (1, 64),
}

_COLUMN: Final = 0 if platform.machine() == "x86_64" else 1


@dataclass(frozen=True)
class Attempt:
    """One escape attempt, and its requirements without the confinement."""

    name: str
    attack: Attack
    """Returns a description of the gain; raises ``OSError`` if there is none."""
    only_confined: str
    """Why it is not made without the confinement; empty if it is."""
    needs: str
    """Its requirements to succeed without the confinement, beyond any Linux and any user."""


ATTEMPTS: Final[dict[str, Attempt]] = {}


def attempt(*, only_confined: str = "", needs: str = "") -> Callable[[Attack], Attack]:
    """Register a function as an attempt under its own name."""

    def register(attack: Attack) -> Attack:
        name = attack.__name__
        ATTEMPTS[name] = Attempt(name, attack, only_confined, needs)
        return attack

    return register


def call(name: str, *args: Any, reached: Collection[int] = ()) -> int:
    """Make a system call; raise ``OSError`` if it fails.

    An error in ``reached`` counts as a success: it comes after all permission checks.
    """
    number = NUMBERS[name][_COLUMN]
    if number is None:
        raise OSError(errno.ENOSYS, f"this architecture has no {name}")
    return raw_call(number, *args, reached=reached)


def raw_call(number: int, *args: Any, reached: Collection[int] = ()) -> int:
    """Make a system call by its number; see :func:`call`."""
    given = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    ctypes.set_errno(0)
    result: int = ctypes.c_long(libc.syscall(ctypes.c_long(number), *given)).value
    failure = ctypes.get_errno()
    if result == -1 and failure not in reached:
        raise OSError(failure, os.strerror(failure))
    return result


def run_code(code: bytes, low: bytes = b"") -> tuple[int, int]:
    """Run x86-64 machine code; return its result and the address of ``low``, which it may use.

    Code and data are below 4 GiB, so that the pointers of 32-bit calls reach them. The register
    ``ebx`` contains the address of ``low``.
    """
    if platform.machine() != "x86_64":
        raise OSError(errno.ENOSYS, "the machine code is for x86-64")
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        *[ctypes.c_size_t] * 1,
        *[ctypes.c_int] * 3,
        ctypes.c_long,
    ]
    # Private, anonymous, MAP_32BIT.
    page = libc.mmap(None, 4096, 7, 0x02 | 0x20 | 0x40, -1, 0)
    if page is None or page == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "no page for machine code")
    data = page + 2048
    ctypes.memmove(data, low + b"\0", len(low) + 1)
    # push rbx; mov ebx, data; call code; pop rbx; ret
    whole = b"\x53\xbb" + data.to_bytes(4, "little") + b"\xe8\x02\0\0\0\x5b\xc3" + code
    ctypes.memmove(page, whole, len(whole))
    result = ctypes.CFUNCTYPE(ctypes.c_long)(page)()
    return int(result), data
