"""The inputs of ``wasmdrop submit``: described by flags, or read from files."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from typing import Any, Final

import msgspec

from wasmdrop.cli.standard_streams import say
from wasmdrop.protocol.errors import RefusedError, SettingsError
from wasmdrop.protocol.input import parse_input
from wasmdrop.protocol.input_values import text_or_base64
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.strict_json import parse
from wasmdrop.settings import scalar_or_text

#: The largest WASMDROP_MAX_INPUT_MB and WASMDROP_MAX_MODULE_MB, in bytes: no daemon reads more.
_MAX_INPUT_BYTES: Final = 1024 * MEBIBYTE
MAX_MODULE_BYTES: Final = 4096 * MEBIBYTE

#: Limits of a job: name in the input, type, and help.
_LIMITS: Final = (
    ("timeout_sec", float, "SECONDS", "wall-clock time"),
    ("memory_mb", int, "MB", "memories and tables, in MiB"),
    ("output_mb", float, "MB", "standard output and error, or results, in MiB"),
    ("disk_mb", int, "MB", "files in its directory, in MiB"),
    ("fuel", int, "N", "units of wasmtime's fuel, about one for each instruction"),
)

#: The options that describe a job.
_DESCRIBING: Final = (
    *("entry", "args", "arg", "module", "env", "stdin", "file", "grant", "deterministic", "id"),
    *(name for name, *_ in _LIMITS),
)


class SubmittedInput(msgspec.Struct, frozen=True):
    """An input to drop."""

    label: str
    """Its name in messages; empty if flags describe it."""
    data: bytes


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that describe an input."""
    group = parser.add_argument_group("the job, unless FILEs are given")
    group.add_argument("--entry", help="exported function (default: the daemon's ENTRY)")
    values = group.add_mutually_exclusive_group()
    values.add_argument("--args", metavar="JSON", help="arguments, as a JSON array")
    values.add_argument(
        "--arg",
        action="append",
        metavar="VALUE",
        help="one argument, may be repeated: a JSON scalar, else text (--arg=-w)",
    )
    group.add_argument(
        "--module",
        help="module in the daemon's wasm directory, or sha256:HEX of one that the daemon has",
    )
    group.add_argument(
        "--env",
        action="append",
        metavar="NAME[=VALUE]",
        help="environment variable of a WASI program, may be repeated; without VALUE: our own",
    )
    group.add_argument(
        "--stdin", metavar="FILE", help="standard input of a WASI command; - passes on our own"
    )
    group.add_argument(
        "--file",
        action="append",
        metavar="[NAME=]PATH",
        help="file for the directory of a WASI program, may be repeated; NAME is its path there"
        " (default: the last part of PATH)",
    )
    group.add_argument(
        "--grant",
        action="append",
        metavar="NAME",
        help="directory of the operator that the job may read, by its name; may be repeated",
    )
    group.add_argument(
        "--deterministic",
        action="store_true",
        default=None,
        help="every run of the same job gives the same result",
    )
    group.add_argument(
        "--id",
        metavar="TEXT",
        help="your name for the job, which its marker and `wasmdrop show` repeat",
    )
    limits = parser.add_argument_group("limits of that job, at most those of the daemon")
    for name, kind, metavar, what in _LIMITS:
        flag = f"--{name.replace('_', '-')}"
        limits.add_argument(flag, type=_more_than_0(kind), metavar=metavar, help=what)


def _more_than_0(kind: type[int] | type[float]) -> Callable[[str], float]:
    def limit(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"expected more than 0, got {text}")
        return value

    limit.__name__ = kind.__name__  # argparse names it in the message for other text
    return limit


def read_inputs(options: argparse.Namespace, max_input_bytes: int) -> list[SubmittedInput]:
    """Return all inputs that the command line describes or names. Raises ``SettingsError``.

    ``max_input_bytes``: larger inputs cause a warning.
    """
    described = {
        f"--{name.replace('_', '-')}": getattr(options, name)
        for name in _DESCRIBING
        if getattr(options, name) is not None
    }
    if not options.files:
        inputs = [SubmittedInput("", _described_input(described))]
    else:
        if described:
            flag = next(iter(described))
            raise SettingsError(f"{flag}: describes a job, and so does FILE; give only one of them")
        if options.name is not None and len(options.files) > 1:
            raise SettingsError("--name: a slot holds one result; give only one FILE")
        inputs = [
            SubmittedInput("standard input" if file == "-" else file, content_of(file))
            for file in options.files
        ]
    for item in inputs:
        _warn(item, max_input_bytes)
    return inputs


def _warn(item: SubmittedInput, max_bytes: int) -> None:
    """Say if the daemon will refuse an input. Its limits may differ from those known here."""
    label = item.label or "the job"
    if len(item.data) > max_bytes:
        say(
            f"warning: {label}: the input has {len(item.data) / MEBIBYTE:.1f} MiB; the daemon"
            f" refuses those over {max_bytes // MEBIBYTE} MiB (WASMDROP_MAX_INPUT_MB)"
        )
    elif item.label:
        try:
            parse_input(item.data)
        except RefusedError as refusal:
            say(f"warning: {label}: {refusal.message}; the daemon will refuse it")


def content_of(file: str, max_bytes: int = _MAX_INPUT_BYTES) -> bytes:
    """Return the content of a file, or of standard input for ``-``. Raises ``SettingsError``."""
    if file == "-" and sys.stdin is None:
        raise SettingsError("-: standard input is closed; open it, or give a FILE")
    try:
        if file == "-":
            data = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(max_bytes + 1)
    except OSError as error:
        raise SettingsError(f"{file}: can't be read: {error.strerror}") from None
    if len(data) > max_bytes:
        raise SettingsError(f"{file}: expected at most {max_bytes // MEBIBYTE} MiB")
    return data


def _described_input(described: dict[str, Any]) -> bytes:
    limits = (name for name, *_ in _LIMITS)
    spec: dict[str, Any] = {
        name: described[flag]
        for name in ("entry", "module", *limits, "deterministic", "id")
        if (flag := f"--{name.replace('_', '-')}") in described
    }
    if "--args" in described:
        try:
            spec["args"] = parse(os.fsencode(described["--args"]))
        except RefusedError as refusal:
            raise SettingsError(f"--args: {refusal.message}") from None
    if "--arg" in described:
        spec["args"] = [scalar_or_text(text) for text in described["--arg"]]
    if "--env" in described:
        spec["env"] = _by_name("--env", map(_variable, described["--env"]))
    if "--grant" in described:
        spec["grants"] = described["--grant"]
    spec |= _contents(described)
    try:
        data = json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode()
        parse_input(data)
    except UnicodeEncodeError:
        raise SettingsError("the job: expected flags in UTF-8") from None
    except RefusedError as refusal:
        raise SettingsError(f"the job: {refusal.message}") from None
    return data


def _contents(described: dict[str, Any]) -> dict[str, Any]:
    """Return standard input and files of the job."""
    found: dict[str, Any] = {}
    stdin, files = described.get("--stdin"), list(map(_named, described.get("--file", ())))
    if [stdin, *(path for _, path in files)].count("-") > 1:
        raise SettingsError("-: standard input can be read only once")
    if stdin is not None:
        found["stdin"] = text_or_base64(content_of(stdin))
    if files:
        paths = _by_name("--file", files)
        found["files"] = {name: text_or_base64(content_of(path)) for name, path in paths.items()}
    return found


def _variable(given: str) -> tuple[str, str]:
    """Return name and value of a variable; without a value, that of our own environment."""
    name, equals, value = given.partition("=")
    if not equals:
        if name not in os.environ:
            raise SettingsError(f"--env: {name}: no such variable here; expected NAME=VALUE")
        value = os.environ[name]
    return name, value


def _named(given: str) -> tuple[str, str]:
    """Return the name of a file in the job's directory, and its path here."""
    name, equals, path = given.partition("=")
    if not equals:
        name, path = PurePath(given).name, given
    if path == "-" and not equals:
        raise SettingsError("--file: -: standard input has no name; expected NAME=-")
    if not name or not path:
        raise SettingsError(f"--file: {given}: expected NAME=PATH, or the PATH of a file")
    return name, path


def _by_name(flag: str, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise SettingsError(f"{flag}: {name}: given twice")
        found[name] = value
    return found
