"""Runs a command; each error becomes one line and a status."""

import importlib
import sys
from collections.abc import Sequence

from wasmdrop.cli import parser, standard_streams
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


def run(given: Sequence[str]) -> int:
    """Run a command; return its exit status."""
    standard_streams.prepare()
    try:
        try:
            return _run(given)
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


def _run(given: Sequence[str]) -> int:
    options = parser.parse(given)
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
