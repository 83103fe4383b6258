"""``wasmdrop receipt``: put the signatures of several receipts into one."""

import argparse
import sys
from pathlib import Path
from typing import Final

from wasmdrop.cli.named_files import read_named_file
from wasmdrop.proof.envelope import (
    MAX_ENVELOPE_BYTES,
    Envelope,
    encode_envelope,
    merge_envelopes,
    parse_envelope,
)
from wasmdrop.proof.statement import parse_statement
from wasmdrop.protocol.errors import MalformedError, SettingsError
from wasmdrop.system.durable_files import write_durably

_MERGE: Final = """\
Prints one receipt with the signatures of all. The receipts must state the same, byte for byte, as
those of honest executors of the same version do. No signature is verified: wasmdrop verify does.
"""

_MERGE_EPILOG: Final = """\
The order of the files does not matter. Exit status: 0; 2 if a file is no receipt, or states
something else than the first.

Example:
  wasmdrop receipt merge a/result.receipt b/result.receipt >task-7.receipt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands below this one."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    merge = actions.add_parser(
        "merge",
        help="put the signatures of several receipts into one",
        description=_MERGE,
        epilog=_MERGE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    merge.add_argument("first", metavar="FILE", help="a receipt")
    merge.add_argument("others", metavar="FILE", nargs="+", help="receipts of the same job")
    merge.add_argument("--output", metavar="FILE", help="write there, not to standard output")


def run(options: argparse.Namespace) -> int:
    """Merge receipts."""
    merged = _read(options.first)
    for path in options.others:
        try:
            merged = merge_envelopes((merged, _read(path)))
        except MalformedError as error:
            raise SettingsError(f"{path}: {error}") from None
    data = encode_envelope(merged)
    if options.output is None:
        sys.stdout.write(data.decode())
        return 0
    try:
        with write_durably(Path(options.output)) as file:
            file.write(data)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file has this name"
        raise SettingsError(f"{options.output}: can't be written: {reason}") from None
    return 0


def _read(path: str) -> Envelope:
    data = read_named_file(path, MAX_ENVELOPE_BYTES)
    try:
        envelope = parse_envelope(data)
        parse_statement(envelope.payload)
    except MalformedError as error:
        raise SettingsError(f"{path}: {error}") from None
    return envelope
