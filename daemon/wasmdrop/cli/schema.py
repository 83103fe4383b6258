"""``wasmdrop schema``: the input and the completion marker as JSON Schemas."""

import argparse
import json
import sys

from wasmdrop.protocol.json_schema import DOCUMENTS, document

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which of the two."""
    parser.add_argument(
        "document",
        nargs="?",
        choices=list(DOCUMENTS),
        default="input",
        help="of what (default: input)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the document."""
    sys.stdout.write(json.dumps(document(options.document), indent=2) + "\n")
    return 0
