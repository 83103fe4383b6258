"""``wasmdrop schema``: print the JSON Schema of inputs or of completion markers."""

import argparse
import json
import sys

from wasmdrop.protocol.json_schema import DOCUMENTS, document


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument(
        "document",
        nargs="?",
        choices=list(DOCUMENTS),
        default="input",
        help="what the schema describes (default: input)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the document."""
    sys.stdout.write(json.dumps(document(options.document), indent=2) + "\n")
    return 0
