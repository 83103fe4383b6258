"""``wasmdrop submit``: drops jobs the right way and, with ``--wait``, shows what came of them.

Speaks the drop protocol through :mod:`wasmdrop.client` and needs nothing else of the daemon.
Standard output carries results alone; on a terminal they are laid out for a person.
"""

import argparse
import base64
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
from wasmdrop.cli.wait_reason import WaitReason
from wasmdrop.client import MAX_RESULT_BYTES, Result, ResultError, Submission, submit
from wasmdrop.protocol.errors import RefusedError, SettingsError
from wasmdrop.protocol.input import parse_input
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.strict_json import parse
from wasmdrop.protocol.text import json_escaped, one_line

__all__ = ["add_arguments", "run"]

#: Exit statuses by code; all other codes are 1, the job failed.
_STATUS: Final = {Code.OK: 0, Code.INTERNAL: 3, Code.TIMEOUT: 124}
_NO_RESULT_IN_TIME: Final = 124
_UNREADABLE: Final = 3
_INTERRUPTED: Final = 130

#: How long a job may take, in seconds, before it is asked what it waits for.
_PATIENCE_SECONDS: Final = 2.0

#: Of several jobs the gravest end counts, in this order.
_GRAVEST_FIRST: Final = (3, 124, 1, 0)

_DESCRIPTION: Final = """\
Drops jobs into the shared directory of a daemon: under a temporary name first, then
renamed, so that the daemon never sees half of one. Each job gets a slot of its own
unless --name says which.

A job is described by flags, or by FILEs that hold inputs of the drop protocol. These are
dropped byte for byte; one that the daemon is going to refuse is warned of.
"""

_EPILOG: Final = """\
What is printed, one line for each job, in the order in which they were given:
  (no flag)       the path of the input that was dropped
  --wait          the result, the same line as in result.json
  --wait --json   the completion marker, with the result under "result"
  --json          {"status": "dropped", ...} with the paths of input and marker; with --wait
                  too, for a job that had no result in time

Exit status: 0 dropped or, with --wait, succeeded; 1 a job failed; 2 wrong use or settings;
3 the daemon's own fault, or a result that can't be had: forged, torn, too large or
unreadable (then standard error says which); 124 a job ran into its time limit, or
--wait SECONDS ran out (then standard error says so); 130 interrupted. Of several
jobs the gravest counts: 3, 124, 1, 0. Whatever became of the jobs, 4 if standard output can't be
written and 141 if its reader has gone.

Examples:
  wasmdrop submit --shared-dir /srv/jobs --entry fib --args '[12]' --wait
  wasmdrop submit --module wordcount --arg=-w --stdin notes.txt --wait 30
  echo '{"entry": "add", "args": [5, 7]}' | wasmdrop submit --wait -
  wasmdrop submit --wait jobs/*.json
"""


class _Input(msgspec.Struct, frozen=True):
    """An input that is to be dropped."""

    label: str
    """What a person calls it; empty for the one that flags describe."""
    data: bytes


class _DroppedInput(msgspec.Struct, frozen=True):
    """An input that was dropped."""

    label: str
    submission: Submission


#: What came of a job, or why that can't be said.
_End: TypeAlias = Result | TimeoutError | ResultError


class _WaitAction(argparse.Action):
    """``--wait [SECONDS]``, where the next word may also be the first FILE."""

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
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
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
        help="wait for the results, SECONDS at most for all of them; the jobs stay dropped",
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="see below")
    parser.add_argument(
        "--max-result-mb",
        type=int,
        default=MAX_RESULT_BYTES // MEBIBYTE,
        metavar="MB",
        help="the most that --wait reads of one result, all its files together (default:"
        " %(default)s)",
    )
    place = parser.add_argument_group("where to")
    place.add_argument(
        "--shared-dir",
        metavar="DIR",
        help="the daemon's shared directory (default: as the daemon finds it, by"
        " WASMDROP_SHARED_DIR or OUTPUT_PATH, else /mnt/shared)",
    )
    place.add_argument(
        "--name",
        help="the slot: NAME or input-NAME.json, or input.json, maybe after directories"
        " (default: one of its own)",
    )
    place.add_argument(
        "--module-file",
        metavar="WASM",
        help="drop this module beside the input, as module.wasm; without --name the job gets a"
        " directory of its own",
    )
    job = parser.add_argument_group("the job, unless FILEs hold it")
    job.add_argument("--entry", help="the exported function (default: the daemon's ENTRY)")
    values = job.add_mutually_exclusive_group()
    values.add_argument("--args", metavar="JSON", help="the arguments, as a JSON array")
    values.add_argument(
        "--arg",
        action="append",
        metavar="VALUE",
        help="one argument, may be repeated: a JSON scalar, anything else is text (--arg=-w)",
    )
    job.add_argument(
        "--module", help="a module in the daemon's wasm directory, or sha256:HEX of one it has seen"
    )
    job.add_argument(
        "--stdin", metavar="FILE", help="standard input of a WASI command; - passes on ours"
    )
    job.add_argument("--timeout-sec", type=float, metavar="SECONDS", help="limit of the run")


def run(options: argparse.Namespace) -> int:
    """Drop the jobs and, if asked to, wait for them; return the exit status."""
    shared_dir, ready_suffix = _daemon(options.shared_dir)
    try:
        jobs = _jobs(options)
        module = None if options.module_file is None else _content(options.module_file)
        dropped = [_drop(job, shared_dir, options.name, module, ready_suffix) for job in jobs]
        if options.wait_seconds is not None:
            max_bytes = options.max_result_mb * MEBIBYTE
            return _wait(dropped, options.wait_seconds, max_bytes, as_json=options.as_json)
        for item in dropped:
            _write(_dropped_line(item) if options.as_json else _path_line(item))
    except KeyboardInterrupt:
        _say(f"interrupted; what was dropped stays dropped, its results will be in {shared_dir}")
        return _INTERRUPTED
    return 0


# --- What to drop, and where


def _jobs(options: argparse.Namespace) -> list[_Input]:
    """Read every input before any is dropped."""
    described = {
        f"--{name.replace('_', '-')}": getattr(options, name)
        for name in ("entry", "args", "arg", "module", "stdin", "timeout_sec")
        if getattr(options, name) is not None
    }
    if not options.files:
        return [_Input("", _input(described))]
    if described:
        raise SettingsError(f"{next(iter(described))}: describes a job, and so does FILE; give one")
    if options.name is not None and len(options.files) > 1:
        raise SettingsError("--name: names one slot, which holds one result; give one FILE")
    jobs = [
        _Input("standard input" if file == "-" else file, _content(file)) for file in options.files
    ]
    for job in jobs:
        try:
            parse_input(job.data)
        except RefusedError as refusal:
            _say(f"warning: {job.label}: {refusal.message}; the daemon will refuse it, too")
    return jobs


def _input(described: dict[str, Any]) -> bytes:
    """Return the input that flags describe."""
    spec: dict[str, Any] = {
        key: described[flag]
        for key, flag in (("entry", "--entry"), ("module", "--module"))
        if flag in described
    }
    if "--args" in described:
        spec["args"] = _json("--args", described["--args"])
    if "--arg" in described:
        spec["args"] = [_scalar(text) for text in described["--arg"]]
    if "--stdin" in described:
        spec["stdin"] = _text_or_base64(_content(described["--stdin"]))
    if "--timeout-sec" in described:
        spec["timeout_sec"] = described["--timeout-sec"]
    try:
        data = json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode()
        parse_input(data)
    except UnicodeEncodeError:
        raise SettingsError("the job: expected flags in UTF-8") from None
    except RefusedError as refusal:
        raise SettingsError(f"the job: {refusal.message}") from None
    return data


def _json(flag: str, text: str) -> object:
    try:
        return parse(os.fsencode(text))
    except RefusedError as refusal:
        raise SettingsError(f"{flag}: {refusal.message}") from None


def _scalar(text: str) -> object:
    try:
        value = parse(os.fsencode(text))
    except RefusedError:
        return text
    return text if isinstance(value, list | dict) else value


def _text_or_base64(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _content(file: str) -> bytes:
    if file == "-" and sys.stdin is None:
        raise SettingsError("-: standard input is closed; give a FILE, or open it")
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise SettingsError(f"{file}: can't be read: {error.strerror}") from None


def _daemon(shared_dir: str | None) -> tuple[Path, str]:
    """Return the shared directory, and the suffix of ready files, as the daemon finds them."""
    # Where the daemon keeps its state, and whether it may, is no producer's business.
    flags = {"state_dir": os.devnull}
    if shared_dir is not None:
        flags["shared_dir"] = shared_dir
    found = settings.load(os.environ, flags).settings
    return found.shared_dir, found.ready_suffix


def _drop(
    job: _Input, shared_dir: Path, name: str | None, module: bytes | None, ready_suffix: str
) -> _DroppedInput:
    try:
        submission = submit(shared_dir, job.data, name, module=module, ready_suffix=ready_suffix)
    except ValueError as error:
        raise SettingsError(f"--{error}") from None
    except OSError as error:
        what = job.label or "the job"
        where = shared_dir if error.filename is None else error.filename
        raise SettingsError(f"{what}: can't be dropped: {where}: {error.strerror}") from None
    return _DroppedInput(job.label or submission.slot, submission)


# --- What came of it


def _wait(dropped: list[_DroppedInput], seconds: float, max_bytes: int, *, as_json: bool) -> int:
    """Wait for the jobs in their order, show each as it ends, and return the exit status."""
    statuses = set()
    deadline = time.monotonic() + seconds
    waiting = WaitReason()
    with _showing(dropped, as_json=as_json) as show:
        for item in dropped:
            end = _end(item, deadline, max_bytes, waiting)
            show(item, end)
            statuses.add(_status(end))
    return next(status for status in _GRAVEST_FIRST if status in statuses)


def _end(item: _DroppedInput, deadline: float, max_bytes: int, waiting: WaitReason) -> _End:
    """Wait for a job, and say what it waits for each time that this changes."""
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
                _say(f"{item.label}: {reason}")
                said = reason


def _status(end: _End) -> int:
    if isinstance(end, Result):
        return _STATUS.get(end.code, 1)
    return _NO_RESULT_IN_TIME if isinstance(end, TimeoutError) else _UNREADABLE


@contextlib.contextmanager
def _showing(
    dropped: list[_DroppedInput], *, as_json: bool
) -> Iterator[Callable[[_DroppedInput, _End], None]]:
    if as_json or not sys.stdout.isatty():
        yield _show_json if as_json else _show_line
        return
    # Importing rich takes longer than most jobs: not for scripts.
    from wasmdrop.cli import terminal  # noqa: PLC0415

    with terminal.following([item.label for item in dropped]) as show:
        yield lambda item, end: show(
            item.label, end if isinstance(end, Result) else _reason(item, end)
        )


def _show_line(item: _DroppedInput, end: _End) -> None:
    if isinstance(end, Result):
        _write(end.line)
    else:
        _say(f"{item.label}: {_reason(item, end)}")


def _show_json(item: _DroppedInput, end: _End) -> None:
    if isinstance(end, Result):
        _write(_compact(end.marker | {"result": parse(end.line)}))
    else:
        _say(f"{item.label}: {_reason(item, end)}")
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


def _say(message: str) -> None:
    sys.stderr.write(f"wasmdrop: {one_line(message)}\n")
