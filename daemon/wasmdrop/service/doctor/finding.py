"""What a check finds, and how bad that is."""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from wasmdrop.settings import SandboxMode, Settings

__all__ = ["Finding", "Severity", "ok", "problem", "unless_best_effort", "warning", "worst"]


class Severity(StrEnum):
    """How bad it is, best first."""

    OK = "ok"
    WARNING = "warning"
    """The daemon will run; something will be slower, or less, than it could be."""
    PROBLEM = "problem"
    """The daemon will not start, or break a promise."""


class Finding(msgspec.Struct, frozen=True):
    """One line of the doctor's report."""

    area: str
    """``kernel``, ``mounts``, ``state``, ``grants`` or ``container``."""
    check: str
    status: Severity
    found: str
    advice: str = ""
    """What to do about it; empty where all is well."""


def ok(area: str, check: str, found: str) -> Finding:
    """Return a finding of something that is as it should be."""
    return Finding(area, check, Severity.OK, found)


def warning(area: str, check: str, found: str, advice: str) -> Finding:
    """Return a finding of something that could be better."""
    return Finding(area, check, Severity.WARNING, found, advice)


def problem(area: str, check: str, found: str, advice: str) -> Finding:
    """Return a finding of something that must be seen to."""
    return Finding(area, check, Severity.PROBLEM, found, advice)


def unless_best_effort(settings: Settings, check: str, found: str, advice: str) -> Finding:
    """Return a finding of a part of confinement that is missing: no problem where that is allowed.

    With ``best-effort`` the daemon goes on without.
    """
    if settings.sandbox is SandboxMode.BEST_EFFORT:
        return warning("kernel", check, found, advice)
    return problem("kernel", check, found, advice)


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the status of all of them together."""
    order = list(Severity)
    return max((finding.status for finding in findings), key=order.index, default=Severity.OK)
