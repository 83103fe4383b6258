"""Result files as the daemon writes them, for tests of the producers' library."""

import itertools
import os
from pathlib import Path

from wasmdrop.client import Submission
from wasmdrop.delivery.wire import ResultPackage
from wasmdrop.jobs.job import Job
from wasmdrop.jobs.result_files import package
from wasmdrop.proof.envelope import Signer
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.outcome import Code, Outcome
from wasmdrop.protocol.slot import InputFile, Slot

OK = Outcome(code=Code.OK, results=(144,))

_numbers = itertools.count(1)


def packed(
    submission: Submission,
    outcome: Outcome,
    sha256: str | None = None,
    signer: Signer | None = None,
) -> ResultPackage:
    """Return what the daemon would deliver for a submission; a signed job is deterministic."""
    path = submission.input_path
    job = Job(
        id=f"job-{next(_numbers)}",
        slot=Slot(submission.slot, str(path), str(path.parent), submission.marker_path.stem),
        dropped_at_ns=1,
        input=InputFile(str(path), sha256 or submission.sha256, submission.size_bytes),
        finished_at_ns=2,
    )
    is_signed = signer is not None
    return package(job, "fib", [12], outcome, Limits(), is_deterministic=is_signed, signer=signer)


def deliver(
    submission: Submission,
    outcome: Outcome = OK,
    sha256: str | None = None,
    signer: Signer | None = None,
) -> None:
    """Put result files and marker where the daemon would."""
    results = packed(submission, outcome, sha256, signer)
    for suffix, data in results.files.items():
        submission.marker_path.with_suffix(suffix).write_bytes(data)
    submission.marker_path.write_bytes(results.marker)


def files_below(directory: Path) -> list[str]:
    """Return every file below a directory, hidden ones included."""
    return sorted(
        str(Path(parent, name).relative_to(directory))
        for parent, _directories, names in os.walk(directory)
        for name in names
    )
