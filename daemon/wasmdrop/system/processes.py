"""Starts the daemon's helper processes: command line, lifetime and scheduling."""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Final

import wasmdrop
from wasmdrop.system import libc

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4

#: Where this package was imported from. It may have been found by an import hook that a new process
#: does not have.
_PACKAGE_PARENT: Final = str(Path(wasmdrop.__file__).parent.parent)


def python_command(module: str, *arguments: object) -> list[str]:
    """Return the command line of a process that calls ``main`` of a module with these arguments.

    With -I and -S the daemon's environment has no influence and nothing but the module is imported.
    """
    paths = [*sys.path, _PACKAGE_PARENT]
    program = (
        f"import sys; sys.path[:] = {paths!r}; from {module} import main; main(*{arguments!r})"
    )
    return [sys.executable, "-I", "-S", "-c", program]


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill the calling process when its parent dies; exit if it has died already.

    Raises ``OSError``.
    """
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before prctl took effect
        os._exit(0)


def forbid_inspection() -> None:
    """Forbid other processes of this user to read this one's memory, trace it or dump its core.

    Holds until the process executes a program: its children can be inspected. Only processes with
    ``CAP_SYS_PTRACE``, such as those of root, still can. Raises ``OSError``.
    """
    libc.prctl(_PR_SET_DUMPABLE, 0)


def use_batch_scheduling() -> None:
    """Schedule the calling thread, and processes forked from it, as ``SCHED_BATCH`` (sched(7)).

    It keeps its fair share of processor time but does not preempt the thread that wakes it, which
    would otherwise be interrupted once for each job that it hands on.
    """
    _set_scheduler(os.SCHED_BATCH)


def use_normal_scheduling() -> None:
    """Undo :func:`use_batch_scheduling` for the calling thread."""
    _set_scheduler(os.SCHED_OTHER)


def _set_scheduler(policy: int) -> None:
    with contextlib.suppress(OSError):  # a container may forbid it, which only costs speed
        os.sched_setscheduler(0, policy, os.sched_param(0))
