"""``wasmdrop help``: show the help of a command."""

import argparse

from wasmdrop.cli import parser as command_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="COMMAND",
        help="a command, and one below it (default: show the list of commands)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the help of the command."""
    command_line.parse([*options.names, "--help"])  # exits
    return 0
