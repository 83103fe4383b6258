"""The signals that end a process by default, and their meaning to the daemon and its helpers.

Not listed are SIGKILL, the signals of program faults (SIGSEGV, SIGABRT, …), and SIGPIPE and
SIGXFSZ, which Python ignores so that a write fails instead.
"""

import os
import signal
from typing import Final

#: Shut down gracefully. SIGXCPU: the soft limit of processor time is reached, the hard one kills.
#: SIGPWR: the power fails. wasmdrop does not use the others: a person or a program that sends one
#: wants the process to end.
STOP: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGXCPU,
    signal.SIGPWR,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGSTKFLT,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)

STOP_AT_ONCE: Final = (signal.SIGQUIT,)

#: Load the settings again; or shut down gracefully, if the terminal was closed.
RELOAD: Final = signal.SIGHUP

#: Log the status of the process.
STATUS: Final = signal.SIGUSR1

#: A shell without job control starts background commands with SIGINT and SIGQUIT ignored, but a
#: script must be able to stop the daemon. Other ignored signals stay ignored, as for nohup(1).
NEVER_LEFT_IGNORED: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


def ignore_all() -> None:
    """Ignore all of them in the calling process and its children, except SIGXCPU.

    A signal may be sent to a whole process group or service, but the daemon decides when its
    helpers stop. SIGXCPU ends a job at its limit.
    """
    for number in (*STOP, *STOP_AT_ONCE, RELOAD, STATUS):
        if number != signal.SIGXCPU:
            signal.signal(number, signal.SIG_IGN)


def name_of(number: int) -> str:
    """Return the name of a signal, such as ``SIGHUP`` or ``SIGRTMIN+1``."""
    try:
        return signal.Signals(number).name
    except ValueError:  # Python has names only for the first and the last real-time signal
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def has_terminal() -> bool:
    """Return whether the process has a controlling terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
