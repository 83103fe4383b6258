"""``wasmdrop verify``: run the job of a result again, and say whether it comes out the same."""

import argparse
import json
import math
import os
import sys
import traceback
from typing import Any, Final

import msgspec

from wasmdrop import settings
from wasmdrop.cli import standard_streams
from wasmdrop.cli.exit_status import INTERNAL_ERROR, MISMATCH, UNVERIFIABLE
from wasmdrop.cli.named_files import read_named_file
from wasmdrop.cli.setting_flags import add_config_flag, config_flag
from wasmdrop.proof.claim import Claim
from wasmdrop.proof.envelope import Verifier
from wasmdrop.proof.statement import Engine
from wasmdrop.protocol.errors import (
    MalformedError,
    OutputError,
    SettingsError,
    StorageError,
    WasmdropError,
)
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.marker import compact
from wasmdrop.protocol.text import one_line
from wasmdrop.service import log
from wasmdrop.service.verify.verdict import Report, Verdict
from wasmdrop.service.verify.verification import Request, verify
from wasmdrop.system.extras import RECEIPTS

#: The time limit of a rerun, as a multiple of that of jobs here.
_TIMES: Final = 10

_MAX_SECONDS: Final = 30 * 86400.0
_MAX_COUNT: Final = 1 << 20

#: Characters shown of a call.
_SHOWN: Final = 160

_STATUS: Final = {
    Verdict.MATCH: 0,
    Verdict.NOT_RUN: 0,
    Verdict.MISMATCH: MISMATCH,
    Verdict.UNVERIFIABLE: UNVERIFIABLE,
}

_DESCRIPTION: Final = """\
Checks a result of a deterministic job: runs the job again in the sandbox, with the same module,
input and limits, and compares the outcome: entry, results, output, output files, exit code and
fuel. Nothing is written beside the result.

DOCUMENT is a directory with one marker, a marker (*.done), or a receipt (*.receipt). The files
that a marker names must be beside it. Module and input are found by their digests: beside the
document, and the module below WASMDROP_WASM_DIR. Limits are those of the claim; the settings of
this host must allow them.
"""

_EPILOG: Final = """\
Exit status: 0 match; 1 mismatch, a file or signature that is not as claimed, or an outcome that
differs; 2 wrong use, a malformed document, or module or input not found; 3 a fault of this host;
4 unverifiable: the outcome of such a job may depend on the machine, or this host can't run it.

Examples:
  wasmdrop verify host/shared/job-1
  wasmdrop verify result.receipt --module fib.wasm --input input.json
  wasmdrop verify result.receipt --trust executors.pem --signatures 2
  wasmdrop verify --no-run --trust executors.pem host/shared/job-1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("document", metavar="DOCUMENT", help="directory, marker or receipt")
    parser.add_argument("--module", metavar="FILE", help="the module, if it is elsewhere")
    parser.add_argument("--input", metavar="FILE", help="the input, if it is elsewhere")
    parser.add_argument(
        "--trust", metavar="KEYS.pem", help="public keys whose signatures of the receipt count"
    )
    parser.add_argument(
        "--signatures",
        metavar="N",
        type=_count,
        help="trusted keys that must have signed (default: 1)",
    )
    parser.add_argument(
        "--no-run",
        action="store_false",
        dest="runs",
        help="check signatures and digests only",
    )
    parser.add_argument(
        "--max-sec",
        metavar="SECONDS",
        type=_seconds,
        help=f"time limit of the run (default: {_TIMES} times TIMEOUT_SEC)",
    )
    parser.add_argument(
        "--max-result-mb",
        metavar="MB",
        type=_count,
        default=256,
        help="limit of the files that a marker names, in MiB (default: 256)",
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    add_config_flag(parser)


def run(options: argparse.Namespace) -> int:
    """Verify the result; return the exit status."""
    # A setting for the daemon's state directory does not matter here: this one is temporary.
    flags = config_flag(options) | {"state_dir": os.devnull}
    loaded = settings.load(os.environ, flags).settings
    log.configure(loaded.log, "warning")
    trusted, needed = None, options.signatures or 1
    if options.trust is not None:
        trusted = _trusted_keys(options.trust, needed)
    elif options.signatures is not None:
        raise SettingsError("--signatures: expected --trust KEYS.pem beside it")
    request = Request(
        path=options.document,
        module_path=options.module,
        input_path=options.input,
        trusted=trusted,
        signatures=needed,
        runs=options.runs,
        max_sec=options.max_sec or _TIMES * loaded.limits.timeout_sec,
        max_result_bytes=options.max_result_mb * MEBIBYTE,
    )
    try:
        report = verify(loaded, request)
    except (WasmdropError, KeyboardInterrupt):
        raise
    except OSError as error:
        raise StorageError(f"the result could not be verified: {error}") from error
    except Exception:  # noqa: BLE001 - the status of an uncaught one would be that of a mismatch
        traceback.print_exc()
        return INTERNAL_ERROR
    try:
        sys.stdout.write(_as_json(report) + "\n" if options.as_json else _text(report))
        sys.stdout.flush()
    except OutputError as error:
        if error.is_closed_pipe:
            raise
        # The status of other commands for this is that of an unverifiable result here.
        standard_streams.abandon_output()
        raise StorageError(str(error)) from error
    return _STATUS[report.verdict]


def _trusted_keys(path: str, needed: int) -> tuple[Verifier, ...]:
    """Return the public keys of a file, at least as many as are ``needed``."""
    with RECEIPTS.required("--trust"):
        from wasmdrop.proof.keys import MAX_KEY_FILE_BYTES, load_public_keys  # noqa: PLC0415
    try:
        keys = load_public_keys(read_named_file(path, MAX_KEY_FILE_BYTES))
    except MalformedError as error:
        raise SettingsError(f"{path}: {error}") from None
    if needed > len(keys):
        raise SettingsError(f"--signatures: {needed} is more than the keys in {path}: {len(keys)}")
    return keys


def _text(report: Report) -> str:
    reason = f": {one_line(report.reason)}" if report.reason else ""
    lines = [f"{report.verdict}{reason}"]
    for found in report.differences:
        lines += [
            f"  {found.what}",
            f"    claimed: {found.claimed}",
            f"    actual:  {found.actual}",
        ]
    if report.path is not None:
        lines.append(f"  document: {report.path}")
    if report.claim is not None:
        lines.append(f"  call: {_call(report.claim)}")
        for name, content in (("module", report.claim.module), ("input", report.claim.input)):
            if content is not None:
                lines.append(f"  {name}: sha256 {content.sha256}")
    lines += [f"  signed by: {key_id}" for key_id in report.signers]
    lines += [f"  note: {one_line(note)}" for note in report.notes]
    return "".join(f"{line}\n" for line in lines)


def _call(claim: Claim) -> str:
    entry = claim.entry if isinstance(claim.entry, str) else "unknown"
    args = "unknown" if claim.args is msgspec.UNSET else compact(list(claim.args))
    return one_line(f"{entry} {args}", _SHOWN)


def _as_json(report: Report) -> str:
    claim = report.claim
    known: dict[str, Any] = {
        "document": report.path,
        "verdict": report.verdict,
        "reason": one_line(report.reason),
        "differences": [
            {"what": found.what, "claimed": found.claimed, "actual": found.actual}
            for found in report.differences
        ],
        "notes": [one_line(note) for note in report.notes],
        "signers": list(report.signers),
        "module": None if claim is None or claim.module is None else claim.module.sha256,
        "input": None if claim is None or claim.input is None else claim.input.sha256,
        "versions": {
            "claimed": None if claim is None else _versions(claim.engine),
            "own": None if report.own_engine is None else _versions(report.own_engine),
        },
    }
    return json.dumps(known)


def _versions(engine: Engine) -> dict[str, str]:
    return {"wasmdrop": engine.wasmdrop, "wasmtime": engine.wasmtime}


def _count(text: str) -> int:
    count = int(text) if text.isdecimal() and len(text) <= len(str(_MAX_COUNT)) else 0
    if not 1 <= count <= _MAX_COUNT:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {_MAX_COUNT}")
    return count


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"expected more than 0 and at most {_MAX_SECONDS:.0f}")
    return seconds
