"""The ``wasmdrop`` command line: runs a command; each error becomes one line and a status."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final, NoReturn

from wasmdrop.cli import standard_streams
from wasmdrop.cli.exit_status import (
    CLOSED_PIPE,
    INTERNAL_ERROR,
    INTERRUPTED,
    OUTPUT_ERROR,
    USAGE_ERROR,
)
from wasmdrop.protocol.errors import (
    MalformedError,
    OutputError,
    SandboxError,
    SettingsError,
    StorageError,
)
from wasmdrop.protocol.text import one_line

#: A command's module is imported only when it is called: the daemon needs none of the others.
_COMMANDS: Final = {
    "serve": "run the daemon: watch the directories and run dropped jobs",
    "work": "run the jobs of a fleet on this host",
    "run": "run one job and exit",
    "submit": "drop jobs safely; with --wait, print their results",
    "jobs": "list the jobs in the journal",
    "show": "show one job in the journal",
    "cancel": "end jobs that wait or run",
    "retry": "run the input of a finished job again",
    "inspect": "show exports and imports of a module, and the function that a job calls",
    "fetch": "download a module and verify it by its CID or SHA-256",
    "key": "make a key that signs receipts, or show the public part of one",
    "receipt": "put the signatures of several receipts into one",
    "cid": "print the content ids (CIDs) of files and directories",
    "verify": "run the job of a result again, and say whether it comes out the same",
    "fleet": "make the streams and the server's configuration of a fleet, or show its state",
    "schema": "print the JSON Schema of inputs, completion markers or receipts",
    "config": "show every setting, its value and its origin",
    "doctor": "check whether this host and its mounts are suitable",
}

_EPILOG: Final = """\
Every setting is an environment variable and a flag of `serve`, `run`, `doctor` and `config`;
`wasmdrop config` lists them all. Exit status: 0 success, 1 the job failed, 2 usage or settings
error, 3 internal error, 4 standard output can't be written, 124 the job reached its timeout,
130 interrupted, 141 the reader of standard output has closed it, 143 the job was cancelled.
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are safe for a terminal: ``*.json`` may match any name."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit."""
        super().error(one_line(message))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    standard_streams.prepare()
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()  # here an error gets our status; at exit it would be 120
    except (SettingsError, MalformedError) as error:
        return _failed(error, USAGE_ERROR)
    except (SandboxError, StorageError) as error:
        return _failed(error, INTERNAL_ERROR)
    except OutputError as error:
        standard_streams.abandon_output()
        return CLOSED_PIPE if error.is_closed_pipe else _failed(error, OUTPUT_ERROR)
    except KeyboardInterrupt:
        standard_streams.abandon_output()
        return INTERRUPTED


def _failed(error: Exception, status: int) -> int:
    standard_streams.say(str(error))
    return status


def _run(given: list[str]) -> int:
    parser = _Parser(
        prog="wasmdrop",
        description="Run WebAssembly modules that are dropped into a directory.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wasmdrop {version('wasmdrop')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in given if not word.startswith("-")), None)
    for name, summary in _COMMANDS.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        command = commands.add_parser(name, help=summary, description=description)
        if name == chosen:
            importlib.import_module(f"wasmdrop.cli.{name}").add_arguments(command)
    options = parser.parse_args(given)
    _require_utf8_names()
    module = importlib.import_module(f"wasmdrop.cli.{options.command}")
    return int(module.run(options))


def _require_utf8_names() -> None:
    # The names of output files are part of a result, which must be the same on every host.
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":
        raise SettingsError(
            f"the locale: file names would be read as {encoding}; expected UTF-8: set"
            " LC_ALL=C.UTF-8, and not PYTHONUTF8=0"
        )


if __name__ == "__main__":
    sys.exit(main())
