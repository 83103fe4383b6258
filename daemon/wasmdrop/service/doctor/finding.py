"""The finding of a check, with its severity."""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from wasmdrop.settings import SandboxMode, Settings


class Severity(StrEnum):
    """The severity of a finding, the best first."""

    OK = "ok"
    WARNING = "warning"
    """The daemon runs, but something is slower or weaker than it could be."""
    PROBLEM = "problem"
    """The daemon does not start, or breaks a promise."""


class Finding(msgspec.Struct, frozen=True):
    """One line of the report."""

    area: str
    """``kernel``, ``guest``, ``mounts``, ``state``, ``grants``, ``receipts``, ``page``, ``hook``,
    ``limits``, ``container`` or ``fleet``."""
    check: str
    status: Severity
    found: str
    advice: str = ""
    """What to do; empty if nothing is wrong."""


def ok(area: str, check: str, found: str) -> Finding:
    """Return a finding without advice."""
    return Finding(area, check, Severity.OK, found)


def warning(area: str, check: str, found: str, advice: str) -> Finding:
    """Return a finding of something that could be better."""
    return Finding(area, check, Severity.WARNING, found, advice)


def problem(area: str, check: str, found: str, advice: str) -> Finding:
    """Return a finding of something that must be fixed."""
    return Finding(area, check, Severity.PROBLEM, found, advice)


def unless_best_effort(settings: Settings, check: str, found: str, advice: str) -> Finding:
    """Return a finding of a missing part of confinement.

    It is only a warning with ``best-effort``, unless a signing key demands the whole.
    """
    if settings.sandbox is SandboxMode.BEST_EFFORT and settings.signing_key is None:
        return warning("kernel", check, found, advice)
    return problem("kernel", check, found, advice)


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the worst severity of all findings."""
    order = list(Severity)
    return max((finding.status for finding in findings), key=order.index, default=Severity.OK)
