"""``wasmdrop inspect``: show exports and imports of a module, and the function that a job calls.

The module is compiled and parsed in a sandboxed child process, as by the daemon; nothing of it is
parsed here. The state directory is a temporary one, so that no daemon is affected.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

from wasmdrop import settings
from wasmdrop.cli.setting_flags import add_config_flag, config_flag
from wasmdrop.jobs.entrypoint import choose_entry
from wasmdrop.protocol.component_values import check_function, example
from wasmdrop.protocol.core_values import check_signature
from wasmdrop.protocol.errors import RefusedError, SettingsError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.module_types import ModuleKind, ModuleSummary
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text, indented, one_line
from wasmdrop.sandbox.wire import EngineOptions
from wasmdrop.service import log
from wasmdrop.service.local_sandbox import open_local_sandbox
from wasmdrop.settings import Settings

_REFUSED: Final = 1

#: Characters shown of a name or a type. JSON has them all.
_SHOWN: Final = 200

_KINDS: Final = {
    ModuleKind.LIBRARY: "library: functions, called one at a time",
    ModuleKind.COMMAND: "command: a WASI program, run by its _start",
    ModuleKind.REACTOR: "reactor: functions, after a call of _initialize",
    ModuleKind.COMPONENT: "component: functions of the component model",
}

_DESCRIPTION: Final = """\
Shows exports, imports and initial memory of a module, and the function that a job calls if
its input names none. The module is compiled in a sandbox, as by the daemon, and never run.
Limits and ENTRY are those of the environment.
"""

_EPILOG: Final = """\
If the output is piped, there is one line for each fact: file, bytes, sha256, kind, producers
(if the module names any), memory, entry, export, import. Unprintable characters are escaped.

Exit status: 0 the module can run; 1 it can't, and standard error says why, beginning with
the code that a job would have; 2 usage error, or the file can't be read. A module that can't
be linked is shown nevertheless.

With --template the output is an input to fill in and drop: for the function that --entry
names, for the one that a job calls by default, or for the only one.

Example:
  wasmdrop inspect fib.wasm
  wasmdrop inspect --template fib.wasm > input.json
  wasmdrop inspect --json fib.wasm | jq '.functions | keys'
"""


class _Inspected(msgspec.Struct, frozen=True):
    """What the command shows of a module."""

    path: str
    sha256: str
    size_bytes: int
    summary: ModuleSummary
    entry: str | None
    """The function that a job calls if its input names none."""
    refusal: RefusedError | None
    """Why there is none, or why it can't be called."""
    memory_limit_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("module", metavar="MODULE", help="path of a WebAssembly module")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    parser.add_argument("--template", action="store_true", help="print an input.json only")
    parser.add_argument("--entry", metavar="NAME", help="function for --template")
    add_config_flag(parser)


def run(options: argparse.Namespace) -> int:
    """Show the module; return the exit status."""
    # A setting for the daemon's state directory does not matter here: this one is temporary.
    flags = config_flag(options) | {"state_dir": os.devnull}
    loaded = settings.load(os.environ, flags).settings
    log.configure(loaded.log, "warning")
    try:
        data = _read(options.module, loaded.max_module_mb * MEBIBYTE)
        with tempfile.TemporaryDirectory(prefix="wasmdrop-inspect-") as state_dir:
            own = msgspec.structs.replace(loaded, state_dir=Path(state_dir))
            inspected = asyncio.run(_inspect(options.module, data, own))
    except RefusedError as refusal:
        return _refuse(refusal)
    if options.template:
        return _print_template(inspected, options.entry, loaded)
    if options.as_json:
        sys.stdout.write(_as_json(inspected) + "\n")
    elif sys.stdout.isatty():
        # Importing rich takes a while, and only a person needs it.
        from wasmdrop.cli import terminal  # noqa: PLC0415

        exports, imports = _exports(inspected.summary), _imports(inspected.summary)
        terminal.print_module(_facts(inspected), exports, imports)
    else:
        sys.stdout.writelines(f"{line}\n" for line in _lines(inspected))
    if inspected.summary.link_error:
        sys.stdout.flush()
        return _refuse(RefusedError(Code.LINK_ERROR, inspected.summary.link_error))
    return 0


def _refuse(refusal: RefusedError) -> int:
    """Print why a module can't run; return the exit status."""
    sys.stderr.write(f"wasmdrop: {refusal.code}: {indented(bounded_text(refusal.message))}\n")
    return _REFUSED


async def _inspect(path: str, data: bytes, own: Settings) -> _Inspected:
    """Compile the module in a sandboxed child. Raises ``RefusedError``."""
    async with open_local_sandbox(own, idle=1) as (executor, store):
        with tempfile.TemporaryFile(dir=own.state_dir) as copy:
            copy.write(data)
            copy.flush()
            sha256 = store.ingest(copy.fileno())
        module = await executor.compile(sha256, EngineOptions(fuel=own.limits.fuel is not None))
    entry, refusal = _entry(module.summary, own)
    return _Inspected(
        path, sha256, len(data), module.summary, entry, refusal, own.limits.memory_bytes
    )


def _read(path: str, limit_bytes: int) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise SettingsError(f"{path}: can't be read: {error.strerror}") from None
    if len(data) > limit_bytes:
        raise RefusedError(
            Code.INVALID_MODULE, f"the file is larger than the limit ({limit_bytes} bytes)"
        )
    return data


def _entry(summary: ModuleSummary, own: Settings) -> tuple[str | None, RefusedError | None]:
    """Return the function that a job calls by default, and why it can't be called."""
    entry = None
    try:
        entry = choose_entry(summary, None, own)
        _check(summary, entry)
    except RefusedError as refusal:
        return entry, refusal
    return entry, None


def _check(summary: ModuleSummary, entry: str) -> None:
    """Raise ``RefusedError`` if JSON can't represent the function's arguments or results."""
    if entry in summary.wit_functions:
        check_function(summary.wit_functions[entry])
    else:
        check_signature(summary.functions[entry])


def _print_template(inspected: _Inspected, wanted: str | None, own: Settings) -> int:
    """Print an input for a function; return the exit status."""
    summary = inspected.summary
    try:
        if summary.link_error:
            raise RefusedError(Code.LINK_ERROR, summary.link_error)
        entry = _template_entry(summary, wanted, own)
        _check(summary, entry)
    except RefusedError as refusal:
        return _refuse(refusal)
    args: list[Any]
    if entry == summary.command:
        args = []
    elif entry in summary.wit_functions:
        args = [example(form) for _name, form in summary.wit_functions[entry].params]
    else:
        args = [0.0 if form in {"f32", "f64"} else 0 for form in summary.functions[entry].params]
    sys.stdout.write(json.dumps({"entry": entry, "args": args}) + "\n")
    return 0


def _template_entry(summary: ModuleSummary, wanted: str | None, own: Settings) -> str:
    """Return the function that a job calls, or else the only function."""
    try:
        return choose_entry(summary, wanted, own)
    except RefusedError as refusal:
        if wanted is not None:
            raise
        # Names with an underscore are a toolchain's; a component's top level is for its users.
        names = [name for name in summary.functions if not name.startswith("_")]
        names += [name for name in summary.wit_functions if "#" not in name]
        names = names or [*summary.wit_functions]
        if len(names) == 1:
            return names[0]
        hint = "; say which with --entry" if names else ""
        raise RefusedError(refusal.code, f"{refusal.message}{hint}") from None


# --- Output


def _as_json(inspected: _Inspected) -> str:
    summary, refusal = inspected.summary, inspected.refusal
    body: dict[str, Any] = {
        "path": inspected.path,
        "sha256": inspected.sha256,
        "bytes": inspected.size_bytes,
        "kind": summary.kind,
        "producers": summary.producers,
        "link_error": summary.link_error or None,
        "entry": inspected.entry,
        "entry_error": None
        if refusal is None
        else {"code": refusal.code, "message": refusal.message},
        "memory_min_bytes": summary.memory_min_bytes,
        "functions": msgspec.to_builtins(summary.functions)
        | {
            name: {
                "params": [f"{param}: {form}" for param, form in function.params],
                "results": [] if function.result is None else [str(function.result)],
            }
            for name, function in summary.wit_functions.items()
        },
        "other_exports": summary.other_exports,
        "imports": msgspec.to_builtins(summary.imports),
    }
    # Only ASCII: the module chose the names, and a terminal may show this.
    return json.dumps(body, indent=2)


def _facts(inspected: _Inspected) -> list[tuple[str, str]]:
    return [
        ("file", _shown(inspected.path)),
        ("bytes", str(inspected.size_bytes)),
        ("sha256", inspected.sha256),
        ("kind", _kind(inspected.summary)),
        *_producers(inspected.summary),
        ("memory", _memory(inspected)),
        ("entry", _chosen(inspected)),
    ]


def _producers(summary: ModuleSummary) -> list[tuple[str, str]]:
    return [("producers", one_line(", ".join(summary.producers)))] if summary.producers else []


def _kind(summary: ModuleSummary) -> str:
    if summary.kind is ModuleKind.COMPONENT and summary.command is not None:
        return "component: a WASI 0.2 program, run by its wasi:cli/run"
    return _KINDS[summary.kind]


def _memory(inspected: _Inspected) -> str:
    if inspected.summary.kind is ModuleKind.COMPONENT:
        return "unknown for a component"
    least, limit = inspected.summary.memory_min_bytes, inspected.memory_limit_bytes
    if not least:
        return "none initially"
    wanted = f"{least / MEBIBYTE:g} MiB initially"
    more = "more than" if least > limit else "of"
    return f"{wanted}, {more} the {limit / MEBIBYTE:g} MiB that a job may have"


def _chosen(inspected: _Inspected) -> str:
    entry, refusal = inspected.entry, inspected.refusal
    call = "" if entry is None else f"{_shown(entry)} {_type(inspected.summary, entry)}"
    if refusal is None:
        return call
    against = f"{refusal.code}: {one_line(refusal.message, 4 * _SHOWN)}"
    return f"{call}, but {against}" if call else f"none, {against}"


def _exports(summary: ModuleSummary) -> list[tuple[str, str, str]]:
    names = [*summary.functions, *summary.wit_functions]
    functions = [("func", _shown(name), _type(summary, name)) for name in names]
    return functions + [(kind, _shown(name), "") for name, kind in summary.other_exports.items()]


def _imports(summary: ModuleSummary) -> list[tuple[str, str, str, str]]:
    return [
        (
            entry.kind,
            f"{_shown(entry.module)} {_shown(entry.name)}" if entry.name else _shown(entry.module),
            one_line(entry.type, _SHOWN),
            "provided" if entry.provided else "not provided",
        )
        for entry in summary.imports
    ]


def _lines(inspected: _Inspected) -> list[str]:
    summary = inspected.summary
    return [
        *(" ".join(fact) for fact in _facts(inspected)),
        *(" ".join(("export", *row)).rstrip() for row in _exports(summary)),
        *(
            f"import {kind} {name} {form}".rstrip() + f" ({provided})"
            for kind, name, form, provided in _imports(summary)
        ),
    ]


def _type(summary: ModuleSummary, name: str) -> str:
    signature = summary.wit_functions.get(name) or summary.functions[name]
    return one_line(str(signature), _SHOWN)


def _shown(name: str) -> str:
    """Return a name from a module, quoted if its ends would be invisible."""
    text = one_line(name, _SHOWN)
    return f'"{text}"' if not text or " " in text else text
