"""``wasmdrop submit``: drop jobs safely and, with ``--wait``, show their results.

Uses the drop protocol through :mod:`wasmdrop.client`, and nothing else of the daemon. Standard
output carries only results; on a terminal they are formatted for a person.
"""

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from wasmdrop import settings
from wasmdrop.cli import input_flags
from wasmdrop.cli.exit_status import (
    CANCELLED,
    INTERNAL_ERROR,
    INTERRUPTED,
    TIMEOUT,
    exit_status_of,
)
from wasmdrop.cli.input_flags import (
    MAX_MODULE_BYTES,
    SubmittedInput,
    content_of,
    read_inputs,
)
from wasmdrop.cli.saved_results import SaveDirectory
from wasmdrop.cli.setting_flags import add_config_flag, config_flag
from wasmdrop.cli.standard_streams import say
from wasmdrop.cli.wait_reason import WaitReason
from wasmdrop.client import MAX_RESULT_BYTES, Result, ResultError, Submission, submit
from wasmdrop.protocol.errors import SettingsError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.strict_json import parse
from wasmdrop.protocol.text import json_escaped
from wasmdrop.settings import Settings

#: Time after which a message says why a job waits, in seconds.
_PATIENCE_SECONDS: Final = 2.0

#: The exit status for several jobs is the first of these that one of them has.
_WORST_FIRST: Final = (INTERNAL_ERROR, TIMEOUT, CANCELLED, 1, 0)

_DESCRIPTION: Final = """\
Drops jobs into the shared directory of a daemon. Each input is written under a temporary
name and then renamed, so that the daemon never sees an incomplete one. Each job gets a
slot of its own unless --name chooses one.

Flags describe a job, or FILEs contain inputs of the drop protocol. FILEs are dropped byte
for byte; a warning says if the daemon will refuse one.
"""

_EPILOG: Final = """\
Output, one line for each job, in the order in which they were given:
  (no flag)       the path of the dropped input
  --wait          the result, the same line as in result.json
  --wait --json   the completion marker, with the result as "result"
  --json          {"status": "dropped", ...} with the paths of input and marker;
                  also with --wait, for a job without a result in time

Exit status: 0 dropped or, with --wait, succeeded; 1 a job failed; 2 usage or settings
error; 3 internal error of the daemon, or the result can't be used: forged, torn, too large
or unreadable (standard error says which); 124 a job reached its timeout, or --wait SECONDS
passed (standard error says so); 130 interrupted; 143 a job was cancelled. For several jobs
the first of 3, 124, 143, 1, 0 that occurred. In any case 4 if standard output can't be
written, and 141 if its reader has closed it.

Examples:
  wasmdrop submit --shared-dir /srv/jobs --entry fib --args '[12]' --wait
  wasmdrop submit --module wordcount --arg=-w --stdin notes.txt --wait 30
  echo '{"entry": "add", "args": [5, 7]}' | wasmdrop submit --wait -
  wasmdrop submit --module tool --file in.csv --env LANG=C --wait --save out
  wasmdrop submit --wait jobs/*.json
"""


class _DroppedInput(msgspec.Struct, frozen=True):
    """An input after its drop."""

    label: str
    submission: Submission


#: The result of a job, or why there is none.
_Outcome: TypeAlias = Result | TimeoutError | ResultError


class _WaitAction(argparse.Action):
    """``--wait [SECONDS]``; the next word may also be the first FILE."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Take the word as seconds if it is a number, else as a FILE."""
        namespace.wait_seconds = math.inf
        if not isinstance(values, str):
            return
        try:
            seconds = float(values)
        except ValueError:
            namespace.files = [*(namespace.files or ()), values]
            return
        if not 0 <= seconds < math.inf:
            parser.error(f"{option_string}: expected 0 or more seconds, got {values}")
        namespace.wait_seconds = seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        action="extend",
        help="inputs to drop; - reads one from standard input",
    )
    parser.add_argument(
        "--wait",
        nargs="?",
        metavar="SECONDS",
        action=_WaitAction,
        dest="wait_seconds",
        help="wait for the results, in all at most SECONDS; jobs without one stay dropped",
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="see below")
    parser.add_argument(
        "--save",
        metavar="DIR",
        help="with --wait: copy all result files of the job to DIR, as result.json, result.txt,"
        " result.stdout, result.output/ and so on; DIR is new or empty",
    )
    parser.add_argument(
        "--rm",
        action="store_true",
        dest="removes",
        help="with --wait: remove each job's input and all its result files once its result was"
        " printed, output files too (--save keeps a copy); without a result nothing is removed",
    )
    parser.add_argument(
        "--max-result-mb",
        type=int,
        default=MAX_RESULT_BYTES // MEBIBYTE,
        metavar="MB",
        help="largest result that --wait reads, all its files together (default: %(default)s)",
    )
    target = parser.add_argument_group("destination")
    target.add_argument(
        "--shared-dir",
        metavar="DIR",
        help="shared directory of the daemon (default: WASMDROP_SHARED_DIR, as the"
        " daemon finds it)",
    )
    target.add_argument(
        "--name",
        help="slot: NAME, input-NAME.json or input.json, possibly with directories (default: a new"
        " one)",
    )
    target.add_argument(
        "--module-file",
        metavar="WASM",
        help="module to drop beside the input, as module.wasm; without --name the job gets a new"
        " directory",
    )
    add_config_flag(target)
    input_flags.add_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Drop the jobs and, if asked to, wait for them; return the exit status."""
    _check(options)
    saved = None if options.save is None else SaveDirectory(options.save)
    daemon = _daemon(options)
    shared_dir = daemon.shared_dir
    try:
        inputs = read_inputs(options, daemon.max_input_mb * MEBIBYTE)
        module = None
        if options.module_file is not None:
            module = content_of(options.module_file, MAX_MODULE_BYTES)
        dropped = [
            _drop(item, shared_dir, options.name, module, daemon.ready_suffix) for item in inputs
        ]
        if options.wait_seconds is not None:
            return _wait(dropped, saved, options)
        for item in dropped:
            _write(_dropped_line(item) if options.as_json else _path_line(item))
    except KeyboardInterrupt:
        say(f"interrupted; dropped jobs stay dropped, their results will be in {shared_dir}")
        return INTERRUPTED
    return 0


# --- Dropping


def _check(options: argparse.Namespace) -> None:
    """Raise ``SettingsError`` for flags that do not go together."""
    if options.wait_seconds is None and (options.removes or options.save is not None):
        flag = "--rm" if options.removes else "--save"
        raise SettingsError(f"{flag}: needs --wait, because only then the results are read")
    if options.max_result_mb < 1:
        raise SettingsError(f"--max-result-mb: expected 1 or more, got {options.max_result_mb}")
    if options.save is not None and len(options.files or ()) > 1:
        raise SettingsError("--save: DIR holds one result; give only one FILE")


def _daemon(options: argparse.Namespace) -> Settings:
    """Return the settings of the daemon as it finds them."""
    # A producer needs no state directory, and may not be able to have one.
    flags = {**config_flag(options), "state_dir": os.devnull}
    if options.shared_dir is not None:
        flags["shared_dir"] = options.shared_dir
    return settings.load(os.environ, flags, runs_jobs=False).settings


def _drop(
    item: SubmittedInput,
    shared_dir: Path,
    name: str | None,
    module: bytes | None,
    ready_suffix: str,
) -> _DroppedInput:
    try:
        submission = submit(shared_dir, item.data, name, module=module, ready_suffix=ready_suffix)
    except ValueError as error:
        raise SettingsError(f"--{error}") from None
    except OSError as error:
        what = item.label or "the job"
        where = shared_dir if error.filename is None else error.filename
        hint = ""
        if isinstance(error, FileNotFoundError) and str(where) == str(shared_dir):
            hint = "; expected the daemon's, by --config, --shared-dir or WASMDROP_SHARED_DIR"
        raise SettingsError(f"{what}: can't be dropped: {where}: {error.strerror}{hint}") from None
    return _DroppedInput(item.label or submission.slot, submission)


# --- Waiting


def _wait(
    dropped: list[_DroppedInput], saved: SaveDirectory | None, options: argparse.Namespace
) -> int:
    """Wait for the jobs in order, show each when it ends, and return the exit status."""
    statuses = set()
    deadline = time.monotonic() + options.wait_seconds
    waiting = WaitReason(config_flag(options))
    with _showing(dropped, as_json=options.as_json) as show:
        for item in dropped:
            end = _end(item, deadline, options.max_result_mb * MEBIBYTE, waiting)
            if isinstance(end, Result) and saved is not None:
                saved.save(end)
            show(item, end)
            if isinstance(end, Result) and options.removes:
                sys.stdout.flush()  # the only copy is there now
                _remove(item)
            statuses.add(_status(end))
    return next(status for status in _WORST_FIRST if status in statuses)


def _remove(item: _DroppedInput) -> None:
    try:
        item.submission.remove()
    except OSError as error:
        say(f"warning: {item.label}: can't be removed: {error.filename}: {error.strerror}")


def _end(item: _DroppedInput, deadline: float, max_bytes: int, waiting: WaitReason) -> _Outcome:
    """Wait for a job; report each new reason why it waits."""
    submission, said = item.submission, None
    while True:
        left_seconds = max(0.0, deadline - time.monotonic())
        try:
            return submission.result(min(left_seconds, _PATIENCE_SECONDS), max_bytes=max_bytes)
        except ResultError as error:
            return error
        except TimeoutError as error:
            reason = waiting.why(submission)
            if left_seconds <= _PATIENCE_SECONDS:
                return error if reason is None else TimeoutError(f"no result in time: {reason}")
            if reason is not None and reason != said:
                say(f"{item.label}: {reason}")
                said = reason


def _status(end: _Outcome) -> int:
    if isinstance(end, Result):
        return exit_status_of(end.code)
    return TIMEOUT if isinstance(end, TimeoutError) else INTERNAL_ERROR


@contextlib.contextmanager
def _showing(
    dropped: list[_DroppedInput], *, as_json: bool
) -> Iterator[Callable[[_DroppedInput, _Outcome], None]]:
    if as_json or not sys.stdout.isatty():
        yield _show_json if as_json else _show_line
        return
    # Importing rich takes longer than most jobs.
    from wasmdrop.cli import terminal  # noqa: PLC0415

    with terminal.following([item.label for item in dropped]) as show:
        yield lambda item, end: show(
            item.label, end if isinstance(end, Result) else _reason(item, end)
        )


def _show_line(item: _DroppedInput, end: _Outcome) -> None:
    if isinstance(end, Result):
        _write(end.line)
    else:
        say(f"{item.label}: {_reason(item, end)}")


def _show_json(item: _DroppedInput, end: _Outcome) -> None:
    if isinstance(end, Result):
        _write(_compact(end.marker | {"result": parse(end.line)}))
    else:
        say(f"{item.label}: {_reason(item, end)}")
        _write(_dropped_line(item))


def _reason(item: _DroppedInput, error: TimeoutError | ResultError) -> str:
    reason = str(error).removeprefix(f"{item.submission.slot}: ")
    return f"{reason}; the job stays dropped" if isinstance(error, TimeoutError) else reason


def _dropped_line(item: _DroppedInput) -> bytes:
    submission = item.submission
    return _compact(
        {
            "status": "dropped",
            "slot": submission.slot,
            "input": {
                "path": str(submission.input_path),
                "sha256": submission.sha256,
                "bytes": submission.size_bytes,
            },
            "marker": str(submission.marker_path),
        }
    )


def _path_line(item: _DroppedInput) -> bytes:
    return os.fsencode(item.submission.input_path)


def _compact(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return json_escaped(text).encode()


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
