"""Completes a command line: commands, flags, and values of those that can be listed.

Imported only when a shell asks. The answer goes to the descriptor that the shell's code opens; the
process prints nothing else, whatever happens.
"""

import argparse
import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

import argcomplete
from argcomplete.completers import SuppressCompleter
from argcomplete.lexers import split_line

from wasmdrop.cli import parser
from wasmdrop.protocol.errors import WasmdropError

#: Returns the values that the word at the cursor can become, possibly with descriptions.
_Completer: TypeAlias = Callable[..., Mapping[str, str] | Iterable[str]]

#: A shell waits for the answer, and a person reads it.
_MOST_JOBS: Final = 200
_MOST_MODULES: Final = 1000
_MOST_FILES_SEEN: Final = 100_000

_FILES: Final = frozenset({"FILE", "PATH", "WASM", "DOCUMENT", "KEYS.pem"})


def complete() -> NoReturn:
    """Answer the shell; end the process."""
    with contextlib.suppress(Exception, SystemExit):
        line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
        words = split_line(line, point)[3][1:]
        chosen = next((word for word in words if not word.startswith("-")), "")
        whole = parser.build([chosen])
        for command in _all_parsers(whole):
            for action in command._actions:  # noqa: SLF001 - argparse lists them nowhere else
                if (completer := _completer(action)) is not None:
                    action.completer = completer  # type: ignore[attr-defined]
        chosen_parser = whole.subparsers()[chosen] if chosen else whole
        argcomplete.autocomplete(
            whole,
            # Flags are offered without a dash only if a command takes nothing else.
            always_complete_options=not chosen_parser._get_positional_actions(),  # noqa: SLF001
            default_completer=SuppressCompleter(),
        )
    os._exit(1)


def _all_parsers(of: parser.Parser) -> Iterator[parser.Parser]:
    yield of
    for below in of.subparsers().values():
        yield from _all_parsers(below)


def _completer(action: argparse.Action) -> _Completer | None:
    """Return what lists the values of an argument, by its metavariable."""
    metavar = action.metavar or action.dest.upper()
    if action.choices is not None or not isinstance(metavar, str):
        return None  # argcomplete lists choices itself
    if metavar == "MODULE":
        return _modules if action.option_strings else _files
    if metavar == "COMMAND":
        return _commands
    if metavar == "JOB":
        return _jobs
    if metavar == "DIR":
        return _directories
    if metavar in _FILES:
        return _files
    if "|" in metavar and metavar.islower():
        return lambda **_: metavar.split("|")
    return None


def _commands(parsed_args: argparse.Namespace, **_: object) -> Mapping[str, str]:
    """Return the commands below those that ``wasmdrop help`` has already."""
    found = parser.build(parsed_args.names[:1])
    for name in parsed_args.names:
        found = found.subparsers()[name]
    return found.summaries()


def _jobs(
    parsed_args: argparse.Namespace, parser: argparse.ArgumentParser, **_: object
) -> Mapping[str, str]:
    """Return ids of jobs, if the journal can be read: open ones or finished ones, as needed."""
    from wasmdrop.cli import job_view  # noqa: PLC0415 - most words need no journal
    from wasmdrop.jobs.job import JobState  # noqa: PLC0415
    from wasmdrop.jobs.journal.reader import JobFilter, JournalReader  # noqa: PLC0415

    final = frozenset(state for state in JobState if state.is_final)
    states = {"wasmdrop cancel": frozenset(JobState) - final, "wasmdrop retry": final}
    wanted = JobFilter(states.get(parser.prog, frozenset()))
    try:
        with JournalReader(job_view.load(parsed_args).state_dir) as history:
            return {
                entry.job.id: f"{entry.job.code or entry.job.state} {entry.job.slot.key!a}"
                for entry in history.jobs(wanted, _MOST_JOBS)
            }
    except WasmdropError:
        return {}


def _modules(parsed_args: argparse.Namespace, **_: object) -> Iterable[str]:
    """Return the names of the modules in the wasm directory, if it can be read."""
    from wasmdrop import settings  # noqa: PLC0415
    from wasmdrop.cli.setting_flags import config_flag  # noqa: PLC0415

    # A producer has no state directory, which does not matter here.
    flags = config_flag(parsed_args) | {"state_dir": os.devnull}
    try:
        directory = settings.load(os.environ, flags, runs_jobs=False).settings.wasm_dir
    except WasmdropError:
        return []
    paths = itertools.islice(directory.rglob("*"), _MOST_FILES_SEEN)
    names = (path.relative_to(directory) for path in paths if path.suffix in {".wasm", ".wat"})
    shown = (str(name.with_suffix("")) for name in names if not name.name.startswith("."))
    return sorted(itertools.islice(shown, _MOST_MODULES))


def _directories(prefix: str, **_: object) -> Iterable[str]:
    return [name for name in _files(prefix) if name.endswith("/")]


def _files(prefix: str, **_: object) -> Iterable[str]:
    """Return the files of the directory that the prefix names; directories end with a slash."""
    above, slash, name = prefix.rpartition("/")
    directory = Path(os.path.expanduser(above + slash))  # noqa: PTH111 - "~" must stay a prefix
    try:
        with os.scandir(directory) as entries:
            return [
                above + slash + entry.name + "/" * entry.is_dir()
                for entry in entries
                if entry.name.startswith(name) and (name or not entry.name.startswith("."))
            ]
    except OSError:
        return []
