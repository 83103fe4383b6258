"""The ``wasmdrop`` command: picks the command and turns errors into one line and a status."""

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final, NoReturn

from wasmdrop.cli import standard_streams
from wasmdrop.protocol.errors import OutputError, SandboxError, SettingsError, StorageError
from wasmdrop.protocol.text import one_line

__all__ = ["main"]

#: Exit statuses, beside 0 and what a command gives itself.
_WRONG_USE: Final = 2
_DAEMONS_FAULT: Final = 3
_NO_OUTPUT: Final = 4
_INTERRUPTED: Final = 128 + signal.SIGINT
#: As a shell says of a program that SIGPIPE ended: its reader had seen enough.
_CLOSED_PIPE: Final = 128 + signal.SIGPIPE

#: Each command's module is imported only when it is called: the daemon needs none of the others.
_COMMANDS: Final = {
    "serve": "watch the directories and run what is dropped there",
    "run": "run one job now, then exit",
    "submit": "drop a job the right way, and wait for its result with --wait",
    "jobs": "show the jobs in the journal: open, stuck, finished",
    "show": "show all that the journal knows of one job",
    "retry": "run a finished job's input again",
    "inspect": "show what a module exports and imports, and what would be called",
    "schema": "print the JSON Schema of the input or of the completion marker",
    "config": "show every setting, its value and where it came from",
    "doctor": "check whether this host and these mounts can do what they promise",
}

_EPILOG: Final = """\
Every setting is an environment variable and a flag of `serve`, `run`, `doctor` and `config`:
`wasmdrop config` lists them. Exit status: 0 succeeded, 1 the job failed, 2 wrong use or
settings, 3 the daemon's own fault, 4 standard output can't be written, 124 the job ran into its
time limit, 130 interrupted, 141 the reader of standard output has gone.
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are fit for a terminal: ``*.json`` may match names of any kind."""

    def error(self, message: str) -> NoReturn:
        """Say what was wrong, and exit."""
        super().error(one_line(message))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    standard_streams.prepare()
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()  # here its error has a status; the interpreter's own would be 120
    except SettingsError as error:
        return _failed(error, _WRONG_USE)
    except (SandboxError, StorageError) as error:
        return _failed(error, _DAEMONS_FAULT)
    except OutputError as error:
        standard_streams.abandon_output()
        return _CLOSED_PIPE if error.is_closed_pipe else _failed(error, _NO_OUTPUT)
    except KeyboardInterrupt:
        standard_streams.abandon_output()
        return _INTERRUPTED


def _failed(error: Exception, status: int) -> int:
    sys.stderr.write(f"wasmdrop: {one_line(str(error))}\n")
    return status


def _run(given: list[str]) -> int:
    parser = _Parser(
        prog="wasmdrop",
        description="Runs WebAssembly modules that are dropped into a directory.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wasmdrop {version('wasmdrop')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in given if not word.startswith("-")), None)
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if name == chosen:
            importlib.import_module(f"wasmdrop.cli.{name}").add_arguments(command)
    options = parser.parse_args(given)
    module = importlib.import_module(f"wasmdrop.cli.{options.command}")
    return int(module.run(options))


if __name__ == "__main__":
    sys.exit(main())
