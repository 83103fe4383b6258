"""Facts of another process from ``/proc`` (proc(5))."""

import os
import pwd
from pathlib import Path

import msgspec


class ProcessFacts(msgspec.Struct, frozen=True):
    """A process that runs."""

    user: str
    """Its name; the number of a user without a name."""
    age_seconds: float


def process_facts(pid: int) -> ProcessFacts | None:
    """Return the facts of a process; None if there is none, or ``/proc`` hides it."""
    try:
        user = Path(f"/proc/{pid}").stat().st_uid
        # The name, in parentheses, may have spaces and parentheses.
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        up_seconds = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError):
        return None
    fields = text.rpartition(")")[2].split()
    started_seconds = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return ProcessFacts(user_name(user), max(0.0, up_seconds - started_seconds))


def user_name(user: int) -> str:
    """Return the name of a user; the number without one."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
