"""Attempts on other processes, and on becoming more than one process."""

# ruff: noqa: D401 - the docstring of an attempt describes the gain

import ctypes
import os
import signal
import struct
import threading
from typing import Any, Final

from tests.support.security.syscalls import attempt, call, run_code
from tests.support.security.world import World

_PTRACE_SEIZE: Final = 0x4206
_SIGNAL_OF_ALL: Final = -1
_CLONE_VFORK: Final = 0x4000
_AT_EMPTY_PATH: Final = 0x1000
_SHELL: Final = b"/bin/sh"


# Signals, and what is as good as one


@attempt()
def tracing_the_parent(world: World) -> str:
    """A tracer controls the process."""
    call("ptrace", _PTRACE_SEIZE, world.parent_pid, 0, 0)
    return "traced"


@attempt()
def tracing_another_job(world: World) -> str:
    """It runs as the same user."""
    call("ptrace", _PTRACE_SEIZE, world.sibling_pid, 0, 0)
    return "traced"


@attempt()
def killing_the_parent(world: World) -> str:
    """And thereby all jobs."""
    call("kill", world.parent_pid, signal.SIGKILL)
    return "killed"


@attempt()
def killing_another_job(world: World) -> str:
    """It runs as the same user: only the filter and Landlock prevent it."""
    call("kill", world.sibling_pid, signal.SIGKILL)
    return "killed"


@attempt()
def killing_the_own_group(_world: World) -> str:
    """Which may be the parent's."""
    call("kill", 0, signal.SIGKILL)
    return "killed"


@attempt(only_confined="would end every process of the machine")
def signalling_everybody(_world: World) -> str:
    """With signal 0, which only checks permission."""
    call("kill", _SIGNAL_OF_ALL, 0)
    return "might have killed everybody"


@attempt()
def killing_a_thread_of_the_parent(world: World) -> str:
    """By the call that ``abort`` uses."""
    call("tgkill", world.parent_pid, world.parent_pid, signal.SIGKILL)
    return "killed"


@attempt()
def killing_by_the_number_of_a_thread(world: World) -> str:
    """By the older call."""
    call("tkill", world.parent_pid, signal.SIGKILL)
    return "killed"


@attempt()
def queueing_a_signal(world: World) -> str:
    """To the parent, with a value."""
    info = ctypes.create_string_buffer(128)
    # Number, error, and the code that says that it was queued.
    ctypes.memmove(info, struct.pack("<iii", signal.SIGKILL, 0, -1), 12)
    call("rt_sigqueueinfo", world.parent_pid, signal.SIGKILL, info)
    return "queued"


@attempt()
def holding_the_parent(world: World) -> str:
    """By a pidfd."""
    return f"opened {call('pidfd_open', world.parent_pid, 0)}"


@attempt()
def taking_a_descriptor_of_the_parent(world: World) -> str:
    """Out of its descriptor table."""
    pidfd = call("pidfd_open", world.parent_pid, 0)
    fd = call("pidfd_getfd", pidfd, world.held_fd, 0)
    return f"wrote {os.pwrite(fd, b'overwritten', 0)}"


@attempt(only_confined="needs a pidfd, which killing_by_descriptor gets itself")
def taking_a_descriptor_at_once(world: World) -> str:
    """Without another call before."""
    return f"took {call('pidfd_getfd', world.link_fd, world.held_fd, 0)}"


@attempt()
def killing_by_descriptor(world: World) -> str:
    """As the daemon does."""
    pidfd = call("pidfd_open", world.parent_pid, 0)
    call("pidfd_send_signal", pidfd, signal.SIGKILL, None, 0)
    return "killed"


@attempt(only_confined="needs a pidfd, which killing_by_descriptor gets itself")
def killing_by_descriptor_at_once(world: World) -> str:
    """Without another call before."""
    call("pidfd_send_signal", world.link_fd, signal.SIGKILL, None, 0)
    return "killed"


@attempt()
def having_the_kernel_kill_the_parent(world: World) -> str:
    """As the owner of a descriptor that is signalled at input."""
    set_owner, set_flags, set_signal = 8, 4, 10
    call("fcntl", world.link_fd, set_owner, world.parent_pid)
    call("fcntl", world.link_fd, set_signal, signal.SIGKILL)
    call("fcntl", world.link_fd, set_flags, os.O_ASYNC)
    return "asked for it"


def _span(address: int) -> Any:
    return (ctypes.c_size_t * 2)(address, 11)


@attempt()
def reading_the_parents_memory_at_once(world: World) -> str:
    """By process_vm_readv."""
    into = ctypes.create_string_buffer(11)
    far, near = _span(ctypes.addressof(world.memory)), _span(ctypes.addressof(into))
    call("process_vm_readv", world.parent_pid, near, 1, far, 1, 0)
    return f"read {into.raw!r}"


@attempt()
def writing_the_parents_memory_at_once(world: World) -> str:
    """By process_vm_writev."""
    what = ctypes.create_string_buffer(b"overwritten")
    far, near = _span(ctypes.addressof(world.memory)), _span(ctypes.addressof(what))
    call("process_vm_writev", world.parent_pid, near, 1, far, 1, 0)
    return "wrote"


@attempt()
def writing_another_jobs_memory(world: World) -> str:
    """It runs as the same user."""
    what = ctypes.create_string_buffer(b"overwritten")
    far, near = _span(ctypes.addressof(world.memory)), _span(ctypes.addressof(what))
    call("process_vm_writev", world.sibling_pid, near, 1, far, 1, 0)
    return "wrote"


@attempt(needs="a kernel that compares processes")
def comparing_with_the_parent(world: World) -> str:
    """The results leak the order of kernel addresses."""
    return f"{call('kcmp', os.getpid(), world.parent_pid, 0, 0, 0)}"


@attempt()
def changing_the_parents_priority(world: World) -> str:
    """So that all jobs starve."""
    call("setpriority", 0, world.parent_pid, 7)
    return "changed"


@attempt()
def changing_another_jobs_priority(world: World) -> str:
    """It runs as the same user."""
    call("setpriority", 0, world.sibling_pid, 9)
    return "changed"


@attempt()
def changing_the_parents_input_priority(world: World) -> str:
    """Its I/O priority."""
    call("ioprio_set", 1, world.parent_pid, 3 << 13)
    return "changed"


@attempt()
def changing_the_parents_processors(world: World) -> str:
    """To one of them; here to all."""
    size = 128
    mask = ctypes.create_string_buffer(b"\xff" * size, size)
    call("sched_setaffinity", world.parent_pid, size, mask)
    return "changed"


@attempt()
def changing_the_parents_scheduling(world: World) -> str:
    """To the class of background work."""
    call("sched_setscheduler", world.parent_pid, 3, ctypes.byref(ctypes.c_int(0)))
    return "changed"


@attempt()
def changing_the_parents_limits(world: World) -> str:
    """Such as the size of core files."""
    call("prlimit64", world.parent_pid, 4, (ctypes.c_uint64 * 2)(0, 0), None)
    return "changed"


@attempt()
def outliving_the_parent(world: World) -> str:
    """By cancelling the parent-death signal; the parent dies while this process sleeps."""
    call("prctl", 1, 0, 0, 0, 0)
    os.write(world.link_fd, b"stay")
    threading.Event().wait(20)
    return "lived on"


@attempt()
def outliving_the_parent_passively(world: World) -> str:
    """Without cancelling the signal."""
    os.write(world.link_fd, b"stay")
    threading.Event().wait(20)
    return "lived on"


@attempt()
def becoming_visible_to_debuggers(_world: World) -> str:
    """And so to every process of the same user."""
    call("prctl", 4, 1, 0, 0, 0)
    return "became"


@attempt()
def leaving_the_session(_world: World) -> str:
    """To escape a signal to the session."""
    return f"session {call('setsid')}"


# Becoming more


def _in_the_child(pid: int) -> str:
    if pid == 0:
        os._exit(0)
    return f"forked {pid}"


@attempt()
def forking(_world: World) -> str:
    """A second process may outlive the first."""
    return _in_the_child(call("fork"))


@attempt()
def forking_by_clone(_world: World) -> str:
    """By the call that starts threads."""
    return _in_the_child(call("clone", signal.SIGCHLD, 0, 0, 0, 0))


@attempt()
def forking_and_waiting(_world: World) -> str:
    """With the parent suspended."""
    return _in_the_child(call("clone", _CLONE_VFORK | signal.SIGCHLD, 0, 0, 0, 0))


@attempt(needs="x86-64")
def vforking(_world: World) -> str:
    """In the parent's memory, so in machine code: vfork, then exit in the child."""
    code = bytes.fromhex("b83a000000 0f05 85c0 7509 b83c000000 31ff 0f05 c3")
    pid, _data = run_code(code)
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return f"forked {pid}"


@attempt()
def forking_by_clone3(_world: World) -> str:
    """A filter can't see its arguments."""
    arguments = (ctypes.c_uint64 * 8)(0, 0, 0, 0, signal.SIGCHLD)
    return _in_the_child(call("clone3", arguments, 64))


def _command(world: World) -> tuple[Any, Any]:
    words = (ctypes.c_char_p * 4)(b"sh", b"-c", b"echo > " + os.fsencode(world.made), None)
    return words, (ctypes.c_char_p * 1)(None)


@attempt()
def becoming_another_program(world: World) -> str:
    """A shell that creates a file."""
    words, variables = _command(world)
    return f"{call('execve', _SHELL, words, variables)}"


@attempt()
def becoming_a_program_from_memory(world: World) -> str:
    """A program that the guest brings along."""
    fd = call("memfd_create", b"program", 0)
    # Only opened without confinement, where execve comes next. The content does not matter.
    script = b"#!/bin/sh\necho > " + os.fsencode(world.made) + b"\n"
    os.write(fd, script)
    words, variables = _command(world)
    return f"{call('execveat', fd, b'', words, variables, _AT_EMPTY_PATH)}"


def _threads(count: int) -> str:
    threading.stack_size(64 * 1024)
    done = threading.Event()
    threads = [threading.Thread(target=done.wait, daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:
        raise OSError(11, "no more threads") from None
    return f"made {count} threads"


@attempt()
def making_a_thousand_threads(_world: World) -> str:
    """Until the machine has no more."""
    return _threads(1000)
