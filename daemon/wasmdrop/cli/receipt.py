"""``wasmdrop receipt``: put the signatures of several receipts into one."""

import argparse
import sys
from typing import Final

from wasmdrop.cli.named_files import read_named_file, replace_named_file
from wasmdrop.proof.envelope import (
    MAX_ENVELOPE_BYTES,
    Envelope,
    encode_envelope,
    merge_envelopes,
    parse_envelope,
)
from wasmdrop.proof.statement import parse_statement
from wasmdrop.protocol import strict_json
from wasmdrop.protocol.errors import MalformedError, SettingsError
from wasmdrop.protocol.text import describe_value

_MERGE: Final = """\
Prints one receipt with the signatures of all. The receipts must state the same, byte for byte, as
those of honest executors of the same version do. No signature is verified: wasmdrop verify does.
"""

_MERGE_EPILOG: Final = """\
The order of the files does not matter.

Exit status: 0; 2 if a file is no receipt, or states something other than the first.

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
    )
    merge.add_argument("first", metavar="FILE", help="a receipt")
    merge.add_argument("others", metavar="FILE", nargs="+", help="receipts of the same job")
    merge.add_argument("--output", metavar="FILE", help="write there, not to standard output")


def run(options: argparse.Namespace) -> int:
    """Merge receipts."""
    first = merged = _read(options.first)
    for path in options.others:
        other = _read(path)
        if other.payload != first.payload:
            difference = _difference(_statement(first), _statement(other))
            raise SettingsError(
                f"{path}: states something other than {options.first}: {difference}"
            )
        try:
            merged = merge_envelopes((merged, other))
        except MalformedError as error:
            raise SettingsError(f"{path}: {error}") from None
    data = encode_envelope(merged)
    if options.output is None:
        sys.stdout.write(data.decode())
        return 0
    replace_named_file(options.output, data)
    return 0


def _read(path: str) -> Envelope:
    data = read_named_file(path, MAX_ENVELOPE_BYTES)
    try:
        envelope = parse_envelope(data)
        parse_statement(envelope.payload)
    except MalformedError as error:
        raise SettingsError(f"{path}: {error}") from None
    return envelope


def _statement(envelope: Envelope) -> object:
    return strict_json.parse(envelope.payload)


def _difference(first: object, other: object, *steps: str | int) -> str:
    """Return the first place where two JSON values differ, with both values."""
    if isinstance(first, list) and isinstance(other, list) and len(first) == len(other):
        first, other = dict(enumerate(first)), dict(enumerate(other))
    if not isinstance(first, dict) or not isinstance(other, dict):
        place = strict_json.path_to(*steps)
        return f"at {place} {describe_value(other)}, not {describe_value(first)}"
    for key in (*first, *other):
        if key not in first or key not in other:
            where = "the first" if key in first else "this one"
            return f"only {where} has {strict_json.path_to(*steps, key)}"
        if first[key] != other[key]:
            return _difference(first[key], other[key], *steps, key)
    return "equal values in other bytes"
