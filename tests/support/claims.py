"""Claims, and the outcomes of their reruns, for tests of verification."""

import hashlib
from typing import Any, Final

import msgspec

from wasmdrop.jobs.result_files import encode_result_files, mark_file
from wasmdrop.proof.claim import Claim, ClaimedProfile, Content
from wasmdrop.proof.statement import ClaimedLimits, Engine
from wasmdrop.protocol.limits import Limits
from wasmdrop.protocol.marker import MarkedOutput
from wasmdrop.protocol.outcome import (
    DETERMINISTIC_CLOCK,
    DETERMINISTIC_CLOCK_NS,
    DETERMINISTIC_PROFILE,
    DETERMINISTIC_SEED,
    Code,
    Outcome,
    OutputFile,
    OutputTree,
)
from wasmdrop.service.verify.rerun import Rerun
from wasmdrop.unixfs.directories import tree_link
from wasmdrop.unixfs.files import raw_link

ENGINE: Final = Engine(wasmdrop="1.0", wasmtime="50.0")
PROFILE: Final = ClaimedProfile(DETERMINISTIC_PROFILE, DETERMINISTIC_SEED, DETERMINISTIC_CLOCK)
OK: Final = Outcome(
    code=Code.OK, results=(144,), exit_code=0, stdout=b"out\n", stderr=b"err\n", fuel_used=212
)


def a_rerun(outcome: Outcome = OK) -> Rerun:
    """Return a rerun of ``fib(12)`` with this outcome."""
    files = encode_result_files("fib", [12], outcome, DETERMINISTIC_CLOCK_NS)
    return Rerun("fib", (12,), outcome, files)


def a_claim(rerun: Rerun | None = None, **changes: Any) -> Claim:
    """Return the claim of a marker that a rerun confirms, with other fields changed."""
    rerun = rerun or a_rerun()
    tree = rerun.outcome.output
    claim = Claim(
        id=None,
        module=Content("a" * 64, 100),
        input=Content("b" * 64, 100),
        entry=rerun.entry,
        args=rerun.args,
        code=rerun.outcome.code,
        message=rerun.outcome.message,
        exit_code=rerun.outcome.exit_code,
        fuel_used=rerun.outcome.fuel_used,
        limits=ClaimedLimits.of(Limits()),
        profile=PROFILE,
        engine=ENGINE,
        files={suffix: content_of(data) for suffix, data in rerun.files.items()},
        output_files={}
        if tree is None
        else {file.path: Content(file.sha256, file.size_bytes) for file in tree.files},
        output=None if tree is None else MarkedOutput(tree.cid),
    )
    return msgspec.structs.replace(claim, **changes)


def content_of(data: bytes) -> Content:
    """Return the entry of a marker for a file with this content."""
    file = mark_file(data)
    return Content(file.sha256, file.bytes, file.cid)


def a_tree(files: dict[str, bytes], *directories: str) -> OutputTree:
    """Return output files as the sandbox lists them."""
    found = tuple(
        OutputFile(path, hashlib.sha256(data).hexdigest(), len(data))
        for path, data in files.items()
    )
    links = {file.path: raw_link(file.sha256, file.size_bytes) for file in found}
    return OutputTree("/gone", found, directories, cid=tree_link(links, directories).cid.text)
