"""``wasmdrop schema``: print the JSON Schema of inputs, completion markers or receipts."""

import argparse
import json
import sys
from typing import Final

from wasmdrop.proof.statement import PREDICATE_TYPE, Statement
from wasmdrop.protocol.json_schema import DOCUMENTS, document, schema_of

#: The statement, which is the payload of a receipt.
_RECEIPT: Final = "receipt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument(
        "document",
        nargs="?",
        choices=[*DOCUMENTS, _RECEIPT],
        default="input",
        help="what the schema describes (default: input)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the document."""
    name = options.document
    body = schema_of(Statement, PREDICATE_TYPE) if name == _RECEIPT else document(name)
    sys.stdout.write(json.dumps(body, indent=2) + "\n")
    return 0
