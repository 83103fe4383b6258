"""The parser of the command line: short errors with suggestions, and no abbreviated flags.

Overrides private parts of argparse, so that all Python versions behave alike. Only this module and
:mod:`wasmdrop.cli.completing` use them.
"""

import argparse
import importlib
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Final, NoReturn, TypeGuard

from wasmdrop.cli.commands import COMMANDS, GROUPS
from wasmdrop.cli.exit_status import USAGE_ERROR
from wasmdrop.protocol.near_names import did_you_mean
from wasmdrop.protocol.text import one_line

_EPILOG: Final = """\
Settings are flags of `serve`, `run`, `work`, `config` and `doctor`, environment variables, and keys
of the configuration file; `wasmdrop config` lists them all. `wasmdrop help COMMAND` shows the flags
of a command.

Exit status: 0 success; 1 the job failed; 2 usage or settings error; 3 internal error; 4 standard
output can't be written; 124 the job reached its timeout; 130 interrupted; 141 the reader of
standard output has closed it; 143 the job was cancelled.
"""

#: Longer lines are hard to read.
_MAX_COLUMNS: Final = 100

_MISSING: Final = "the following arguments are required: "
_NOT_A_NUMBER: Final = re.compile(r"invalid (int|float) value: '(.*)'", re.DOTALL)
_NO_VALUE: Final = re.compile(r"ignored explicit argument '(.*)'", re.DOTALL)
_NUMBERS: Final = {"int": "a whole number", "float": "a number"}


class _Formatter(argparse.HelpFormatter):
    """Wraps paragraphs at the width of the terminal, but no indented lines, such as examples."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._width = min(self._width, _MAX_COLUMNS)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for is_fixed, block in itertools.groupby(text.splitlines(), _is_fixed):
            if is_fixed:
                lines += block
            else:
                lines += textwrap.wrap(
                    " ".join(block),
                    width,
                    initial_indent=indent,
                    subsequent_indent=indent,
                    break_on_hyphens=False,  # flags and paths are to be copied
                )
        return "\n".join(lines)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """The parser of a command, or of the commands below it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Formatter} | options | {"allow_abbrev": False})
        # Attributes, because Python 3.11 has no parameters for the colour and suggestions of 3.14.
        self.color = False
        self.suggest_on_error = False
        self._positionals.title = "arguments"

    def subparsers(self) -> dict[str, "Parser"]:
        """Return the parsers of the commands below this one, by their names."""
        return next((dict(each.choices) for each in self._actions if _has_commands(each)), {})

    def summaries(self) -> dict[str, str]:
        """Return the summaries of the commands below this one, by their names."""
        found = (each for each in self._actions if _has_commands(each))
        return {each.dest: each.help or "" for of in found for each in of._get_subactions()}  # noqa: SLF001

    def flags(self) -> list[str]:
        """Return all flags."""
        return [flag for action in self._actions for flag in action.option_strings]

    def format_usage(self) -> str:
        """Return the usage in one line; argparse's has every flag, which are 60 of ``serve``."""
        self.usage = " ".join(self.usage_words())
        return super().format_usage()

    def format_help(self) -> str:
        """Return the help."""
        self.usage = " ".join(self.usage_words())
        return super().format_help()

    def usage_words(self) -> Iterator[str]:
        """Give the words of the usage: the command, and what may follow it."""
        yield self.prog
        flags = [action for action in self._actions if action.option_strings]
        for action in flags:
            if action.required:
                yield f"{action.option_strings[0]} {action.metavar}"
        if any(not action.required for action in flags) and not self.subparsers():
            yield "[OPTION]..."
        for action in self._actions:
            if not action.option_strings:
                name = str(action.metavar or action.dest.upper())
                yield {
                    argparse.ZERO_OR_MORE: f"[{name}]...",
                    argparse.ONE_OR_MORE: f"{name}...",
                    argparse.OPTIONAL: f"[{name}]",
                    argparse.PARSER: f"{name} ...",
                }.get(str(action.nargs), name)

    def parse_known_args(  # type: ignore[override]  # typeshed has overloads for namespaces
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the words of this command; an unknown one is an error of this command."""
        given = sys.argv[1:] if args is None else list(args)
        # First, because an argument that is missing may be one that was mistyped.
        self._refuse_unknown_flags(given)
        options, unknown = super().parse_known_args(given, namespace)
        if unknown:
            reason = "no flag of this name" if unknown[0].startswith("-") else "unexpected"
            self.error(f"{unknown[0] or 'an empty word'}: {reason}")
        return options, []

    def _refuse_unknown_flags(self, given: Sequence[str]) -> None:
        known = self.flags()
        has_commands = bool(self.subparsers())
        for word in given:
            if word == "--" or (has_commands and not word.startswith("-")):
                return
            flag = word.partition("=")[0]
            # A word with a space is no flag for argparse.
            if flag.startswith("--") and flag not in known and " " not in word:
                self.error(f"{flag}: no flag of this name{did_you_mean(flag, known)}")
            # Only before a command, because a value can begin with a minus.
            if has_commands and not flag.startswith("--") and flag[:2] not in known:
                self.error(f"{flag}: no flag of this name{did_you_mean(flag, known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(name) for name in action.choices]
        hint = did_you_mean(str(value), names)
        if _has_commands(action):
            expected = "" if hint or self.prog == "wasmdrop" else f"; expected {_either(names)}"
            self.error(f"{value}: no command of this name{hint}{expected}")
        label = "/".join(action.option_strings) or action.metavar or action.dest
        self.error(f"{label}: expected {_either(names)}, got {value}{hint}")

    def error(self, message: str) -> NoReturn:
        """Print the error, in one line that is safe for a terminal, and exit."""
        message = message.removeprefix("argument ")
        if message.startswith(_MISSING):
            message = f"expected {message.removeprefix(_MISSING)}"
            if names := list(self.subparsers()):
                message = f"expected a command: {_either(names)}"
        message = _NO_VALUE.sub(lambda it: f"takes no value, got {it[1]}", message)
        message = _NOT_A_NUMBER.sub(lambda it: f"expected {_NUMBERS[it[1]]}, got {it[2]}", message)
        self.exit(USAGE_ERROR, f"{self.prog}: {one_line(message)}\nHelp: {self.prog} --help\n")


class _VersionAction(argparse.Action):
    """``--version``. Reading it takes as long as most commands, so it is read on demand."""

    def __call__(self, parser: argparse.ArgumentParser, *_unused: object) -> NoReturn:
        """Print the version and exit."""
        from importlib.metadata import version  # noqa: PLC0415

        sys.stdout.write(f"wasmdrop {version('wasmdrop')}\n")
        parser.exit()


def build(complete: Sequence[str]) -> Parser:
    """Return the parser of all commands, with the flags of those named in ``complete``."""
    parser = Parser(
        prog="wasmdrop",
        description=_description(),
        epilog=_EPILOG,
    )
    parser.add_argument(
        "-V", "--version", action=_VersionAction, nargs=0, help="show the version and exit"
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, prog="wasmdrop", help=argparse.SUPPRESS
    )
    for name, summary in COMMANDS.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        command = commands.add_parser(name, help=summary, description=description)
        if name in complete:
            importlib.import_module(f"wasmdrop.cli.{name}").add_arguments(command)
    return parser


def parse(given: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line; exit with help or an error."""
    parser = build(given[:1] if given and not given[0].startswith("-") else [])
    if not given:
        parser.print_help(sys.stderr)
        parser.exit(USAGE_ERROR)
    return parser.parse_args(given)


def _description() -> str:
    lines = ["Run WebAssembly modules that are dropped into a directory."]
    for purpose, commands in GROUPS.items():
        lines += ["", f"{purpose}:"]
        lines += [f"  {name:<11} {summary}" for name, summary in commands.items()]
    return "\n".join(lines)


def _has_commands(action: argparse.Action) -> TypeGuard["argparse._SubParsersAction[Parser]"]:
    return action.nargs == argparse.PARSER


def _is_fixed(line: str) -> bool:
    return not line or line.startswith(" ")


def _either(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
