"""Signals: what each one that would end a process by default means to the daemon and its helpers.

Left out are SIGKILL, the signals of a program fault (SIGSEGV, SIGABRT, …), and SIGPIPE and SIGXFSZ,
which the interpreter ignores: a write fails instead.
"""

import signal
from typing import Final

__all__ = ["NEVER_LEFT_IGNORED", "OTHERS", "STOP", "STOP_AT_ONCE", "ignore_all", "name_of"]

#: Stop after running jobs had their time. SIGHUP: the terminal has gone. SIGXCPU: the daemon has
#: reached its limit of processor time, and is killed at the hard one. SIGPWR: the power fails.
STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGPWR)

STOP_AT_ONCE: Final = (signal.SIGQUIT,)

#: Nothing of ours sends these, and none of them is a reason to end.
OTHERS: Final = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGSTKFLT,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)

#: A shell without job control starts background commands with SIGINT and SIGQUIT ignored; a script
#: must be able to stop the daemon all the same. Any other ignored signal was meant, as by nohup(1).
NEVER_LEFT_IGNORED: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


def ignore_all() -> None:
    """Ignore all of them in the calling process and its children: the daemon decides when to stop.

    A signal may be sent to a whole process group or service, and its jobs have time to end. Not
    SIGXCPU, which ends a job at its limit.
    """
    for number in (*STOP, *STOP_AT_ONCE, *OTHERS):
        if number != signal.SIGXCPU:
            signal.signal(number, signal.SIG_IGN)


def name_of(number: int) -> str:
    """Return the name of a signal, such as ``SIGHUP`` or ``SIGRTMIN+1``."""
    try:
        return signal.Signals(number).name
    except ValueError:  # Python names only the first and the last real-time signal
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
