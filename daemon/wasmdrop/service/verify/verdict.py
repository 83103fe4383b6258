"""The answer to a verification: a verdict, the reason for it, and what differs."""

from enum import StrEnum
from typing import Final

import msgspec

from wasmdrop.proof.claim import Claim
from wasmdrop.proof.statement import Engine
from wasmdrop.protocol.errors import SettingsError, WasmdropError
from wasmdrop.protocol.marker import compact
from wasmdrop.protocol.text import one_line

#: Characters shown of a value that differs.
_SHOWN: Final = 160


class Verdict(StrEnum):
    """The answer of a verification."""

    MATCH = "match"
    """The job was run again and came out as claimed."""
    NOT_RUN = "not-run"
    """Signatures and digests are as claimed. The job was not run, as requested."""
    MISMATCH = "mismatch"
    """A file, a signature or an outcome is not as claimed."""
    UNVERIFIABLE = "unverifiable"
    """The job can't be run again here such that the outcome must be the same."""


class Difference(msgspec.Struct, frozen=True):
    """One point in which the claim is not true."""

    what: str
    """A file such as ``result.json`` or ``result.output/a.txt``, or a field such as ``fuel``."""
    claimed: str
    actual: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, for a person or for a program."""

    path: str | None = None
    """The document that was verified."""
    verdict: Verdict
    reason: str = ""
    """Why, in one line; empty for a match."""
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    """What was not checked."""
    signers: tuple[str, ...] = ()
    """Key ids of the trusted keys whose signatures are valid."""
    claim: Claim | None = None
    own_engine: Engine | None = None


class ConcludedError(WasmdropError):
    """The verification ends here, with this verdict."""

    def __init__(
        self, verdict: Verdict, reason: str, differences: tuple[Difference, ...] = ()
    ) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason
        self.differences = differences


class DocumentError(SettingsError):
    """A document is malformed, or a file that the caller must give is missing. One line."""


def mismatch(reason: str, *differences: Difference) -> ConcludedError:
    """Return the end of a verification in which something is not as claimed."""
    return ConcludedError(Verdict.MISMATCH, reason, differences)


def unverifiable(reason: str, *differences: Difference) -> ConcludedError:
    """Return the end of a verification that can't come to a result."""
    return ConcludedError(Verdict.UNVERIFIABLE, reason, differences)


def difference(what: str, claimed: object, actual: object) -> Difference:
    """Return a difference with values that are safe for a terminal and short."""
    return Difference(one_line(what, _SHOWN), _shown(claimed), _shown(actual))


def _shown(value: object) -> str:
    if isinstance(value, msgspec.Struct):
        value = compact(msgspec.to_builtins(value))
    return "none" if value is None else one_line(str(value), _SHOWN)
