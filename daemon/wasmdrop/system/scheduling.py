"""How threads and processes of the daemon take their turns on the cores."""

import contextlib
import os

__all__ = ["take_turn_at_once", "wait_for_turn"]


def wait_for_turn() -> None:
    """Let the calling thread, and processes forked from it, wait for a core until one is free.

    As ``SCHED_BATCH`` (sched(7)) it has its fair share as before, and takes no core from whoever
    wakes it. That one would else be interrupted once for each job that it hands on, in the middle
    of what others wait for.
    """
    with contextlib.suppress(OSError):  # a container may forbid it: that costs speed alone
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def take_turn_at_once() -> None:
    """Undo :func:`wait_for_turn` for the calling thread."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
