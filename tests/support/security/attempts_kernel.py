"""Attempts on the kernel's wide interfaces, on the machine, and on privileges."""

# ruff: noqa: D401 - the docstring of an attempt describes the gain

import ctypes
import errno
import os
import signal
import socket
import time
from typing import Final

from tests.support.security.syscalls import attempt, call, libc, raw_call, run_code
from tests.support.security.world import World

_AT_FDCWD: Final = -100
_X32: Final = 0x40000000

_HARMS: Final = "would change the machine"


# Wide interfaces of the kernel


@attempt(needs="a kernel with io_uring")
def making_a_ring(_world: World) -> str:
    """io_uring makes system calls past any filter."""
    return f"made {call('io_uring_setup', 4, ctypes.create_string_buffer(120))}"


@attempt(needs="root")
def loading_a_program_into_the_kernel(_world: World) -> str:
    """Or a BPF map."""
    table = (ctypes.c_uint32 * 18)(2, 4, 4, 1)
    return f"made {call('bpf', 0, table, 72)}"


@attempt(needs="root")
def counting_events(_world: World) -> str:
    """perf_event_open: a side channel and a large attack surface."""
    event = ctypes.create_string_buffer(128)
    # A software event (1), the size of this structure, the processor's clock (0).
    ctypes.memmove(event, (1).to_bytes(4, "little") + (128).to_bytes(4, "little"), 8)
    return f"opened {call('perf_event_open', event, 0, -1, -1, 0)}"


@attempt(needs="root")
def handling_page_faults(_world: World) -> str:
    """Userfaultfd can stall the kernel in the middle of a copy."""
    return f"opened {call('userfaultfd', os.O_CLOEXEC)}"


@attempt(needs="a kernel with keyrings")
def keeping_a_key(_world: World) -> str:
    """A kernel object that outlives the process."""
    return f"kept {call('add_key', b'user', b'wasmdrop-test', b'x', 1, -2)}"


@attempt(needs="a kernel with keyrings")
def asking_for_a_key(_world: World) -> str:
    """Of another user."""
    return f"{call('request_key', b'user', b'wasmdrop-none', None, -2, reached=(errno.ENOKEY,))}"


@attempt(needs="a kernel with keyrings")
def looking_for_a_keyring(_world: World) -> str:
    """The session's."""
    return f"found {call('keyctl', 0, -3, 0, 0, 0)}"


@attempt(only_confined=_HARMS)
def replacing_the_kernel(_world: World) -> str:
    """With an empty one."""
    call("kexec_load", 0, 0, None, 0)
    return "replaced"


@attempt(needs="root")
def loading_a_module(_world: World) -> str:
    """From memory: an invalid one, which the kernel reports only to a privileged process."""
    call("init_module", b"x", 1, b"", reached=(errno.ENOEXEC,))
    return "was heard"


@attempt(needs="root")
def loading_a_module_from_a_file(world: World) -> str:
    """The same from a file."""
    call("finit_module", world.given[0], b"", 0, reached=(errno.ENOEXEC, errno.EINVAL))
    return "was heard"


@attempt(needs="a kernel with user namespaces")
def creating_a_user_namespace(_world: World) -> str:
    """A user namespace gives access to all others."""
    call("unshare", 0x10000000)
    return "unshared"


@attempt(needs="root")
def entering_a_namespace(world: World) -> str:
    """The parent's."""
    try:
        path = os.fsencode(f"/proc/{world.parent_pid}/ns/uts")
        fd = call("openat", _AT_FDCWD, path, os.O_RDONLY, 0)
    except OSError:
        fd = world.link_fd
    call("setns", fd, 0)
    return "entered"


@attempt()
def sharing_memory_by_its_number(_world: World) -> str:
    """Segments outlive their creator, and other processes find them."""
    segment = call("shmget", 0, 4096, 0o1666)
    libc.shmctl(segment, 0, None)
    return f"made {segment}"


@attempt(needs="a kernel with message queues")
def making_a_queue(_world: World) -> str:
    """Other processes find a queue by its name; this one does not exist."""
    call("mq_open", b"wasmdrop-none", os.O_RDONLY, 0, None, reached=(errno.ENOENT,))
    return "was heard"


@attempt(needs="root")
def reading_the_kernels_log(_world: World) -> str:
    """Addresses, device names, faults of other processes."""
    buffer = ctypes.create_string_buffer(256)
    return f"read {call('syslog', 3, buffer, 256)} bytes"


@attempt(needs="a kernel with quotas")
def asking_for_quotas(_world: World) -> str:
    """The one command that has no effect."""
    call("quotactl", 0x800001 << 8, None, 0, None)
    return "was heard"


@attempt(only_confined="current kernels do not have the call")
def asking_for_a_cookie(_world: World) -> str:
    """Of a path, for a profiler."""
    buffer = ctypes.create_string_buffer(64)
    return f"{call('lookup_dcookie', 1, buffer, 64)}"


@attempt(only_confined=_HARMS)
def rebooting(_world: World) -> str:
    """With the mildest command, which enables Ctrl-Alt-Del."""
    call("reboot", 0xFEE1DEAD, 672274793, 0, None)
    return "rebooted"


@attempt(only_confined=_HARMS)
def naming_the_host(world: World) -> str:
    """With its current name."""
    call("sethostname", world.host_name, len(world.host_name))
    return "named"


@attempt(only_confined=_HARMS)
def naming_the_domain(_world: World) -> str:
    """With an empty name."""
    call("setdomainname", b"(none)", 6)
    return "named"


@attempt(only_confined=_HARMS)
def setting_the_time(_world: World) -> str:
    """To the current time."""
    call("settimeofday", (ctypes.c_long * 2)(int(time.time()), 0), None)
    return "set"


@attempt(only_confined=_HARMS)
def setting_the_clock(_world: World) -> str:
    """By the newer call."""
    call("clock_settime", 0, (ctypes.c_long * 2)(int(time.time()), 0))
    return "set"


@attempt(only_confined=_HARMS)
def adjusting_the_clock(_world: World) -> str:
    """In small steps."""
    return f"{call('adjtimex', ctypes.create_string_buffer(256))}"


@attempt(only_confined=_HARMS)
def swapping_to_a_file(world: World) -> str:
    """Which the guest can read afterwards."""
    call("swapon", os.fsencode(world.kept), 0)
    return "swapped"


@attempt(only_confined="would disable the accounting of the machine")
def accounting(_world: World) -> str:
    """A record for each process that ends."""
    call("acct", None)
    return "switched"


# Privileges


@attempt(needs="root")
def becoming_root(_world: World) -> str:
    """By setuid."""
    call("setuid", 0)
    return "became root"


@attempt(needs="root")
def becoming_root_in_every_way(_world: World) -> str:
    """Real, effective and saved user."""
    call("setresuid", 0, 0, 0)
    return "became root"


@attempt(needs="root")
def joining_the_group_of_root(_world: World) -> str:
    """By setgid."""
    call("setgid", 0)
    return "joined"


@attempt(needs="root")
def joining_groups(_world: World) -> str:
    """Such as the group of disks."""
    call("setgroups", 1, (ctypes.c_uint32 * 1)(6))
    return "joined"


@attempt(needs="root")
def taking_capabilities(_world: World) -> str:
    """One is enough: to read any file."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call("capset", header, (ctypes.c_uint32 * 6)(4, 4, 0, 0, 0, 0))
    return "took"


@attempt(needs="a filter that is not there yet")
def filtering_by_an_own_filter(_world: World) -> str:
    """Asked for with a null pointer."""
    call("seccomp", 1, 0, None, reached=(errno.EFAULT,))
    return "was heard"


@attempt()
def changing_the_personality(_world: World) -> str:
    """To disable the randomization of addresses."""
    return f"was {call('personality', 0x0040000)}"


@attempt(needs="root, x86-64")
def talking_to_devices(_world: World) -> str:
    """To all I/O ports."""
    call("iopl", 3)
    return "may"


@attempt(needs="root, x86-64")
def talking_to_one_device(_world: World) -> str:
    """To an unused I/O port."""
    call("ioperm", 0x80, 1, 1)
    return "may"


@attempt(needs="x86-64, and a kernel with the x32 ABI")
def calling_by_the_x32_abi(_world: World) -> str:
    """The x32 ABI has other numbers for the same calls."""
    return f"opened {raw_call(_X32 | 41, socket.AF_INET, socket.SOCK_STREAM, 0)}"


@attempt(needs="x86-64, and a kernel with the 32-bit ABI")
def calling_by_the_32_bit_abi(world: World) -> str:
    """Interrupt 128 has other numbers, too: 39 is mkdir."""
    code = bytes.fromhex("b827000000 b9ff010000 cd80 4898 c3")
    result, _data = run_code(code, os.fsencode(world.made))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return "made a directory"


@attempt()
def surviving_the_filter(_world: World) -> str:
    """By blocking the signal that it sends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL})
    call("socket", socket.AF_INET, socket.SOCK_STREAM, 0)
    return "survived"
