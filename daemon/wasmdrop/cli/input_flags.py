"""The inputs of ``wasmdrop submit``: described by flags, or read from files."""

import argparse
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from wasmdrop.cli.standard_streams import say
from wasmdrop.protocol.errors import RefusedError, SettingsError
from wasmdrop.protocol.input import parse_input
from wasmdrop.protocol.strict_json import parse
from wasmdrop.settings import scalar_or_text


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
        "--stdin", metavar="FILE", help="standard input of a WASI command; - passes on our own"
    )
    group.add_argument("--timeout-sec", type=float, metavar="SECONDS", help="timeout of the job")


def read_inputs(options: argparse.Namespace) -> list[SubmittedInput]:
    """Return all inputs that the command line describes or names. Raises ``SettingsError``."""
    described = {
        f"--{name.replace('_', '-')}": getattr(options, name)
        for name in ("entry", "args", "arg", "module", "stdin", "timeout_sec")
        if getattr(options, name) is not None
    }
    if not options.files:
        return [SubmittedInput("", _described_input(described))]
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
        try:
            parse_input(item.data)
        except RefusedError as refusal:
            say(f"warning: {item.label}: {refusal.message}; the daemon will refuse it")
    return inputs


def content_of(file: str) -> bytes:
    """Return the content of a file, or of standard input for ``-``. Raises ``SettingsError``."""
    if file == "-" and sys.stdin is None:
        raise SettingsError("-: standard input is closed; open it, or give a FILE")
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise SettingsError(f"{file}: can't be read: {error.strerror}") from None


def _described_input(described: dict[str, Any]) -> bytes:
    spec: dict[str, Any] = {
        key: described[flag]
        for key, flag in (("entry", "--entry"), ("module", "--module"))
        if flag in described
    }
    if "--args" in described:
        try:
            spec["args"] = parse(os.fsencode(described["--args"]))
        except RefusedError as refusal:
            raise SettingsError(f"--args: {refusal.message}") from None
    if "--arg" in described:
        spec["args"] = [scalar_or_text(text) for text in described["--arg"]]
    if "--stdin" in described:
        spec["stdin"] = _text_or_base64(content_of(described["--stdin"]))
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


def _text_or_base64(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
