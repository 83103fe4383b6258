"""``wasmdrop config``: every setting, its value and where it came from."""

import argparse
import os
import sys

from rich.console import Console
from rich.table import Table

from wasmdrop import settings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all settings, so that their effect can be seen."""
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    settings.add_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print the settings."""
    loaded = settings.load(os.environ, settings.given_flags(options))
    if options.as_json:
        sys.stdout.write(settings.as_json(loaded) + "\n")
        return 0
    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for name, value, origin in settings.rows(loaded):
        table.add_row(name, value, origin)
    # Piped into a file or grep, a row must stay one line.
    console = Console(width=None if sys.stdout.isatty() else 200, soft_wrap=not sys.stdout.isatty())
    console.print(table)
    return 0
