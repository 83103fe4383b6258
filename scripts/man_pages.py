"""Make the man pages in ``docs/man`` from the parsers of the commands: ``make man``.

There is a page for ``wasmdrop``, for each command, and for each command below one. A paragraph of a
parser's epilog that begins with the name of a section, such as ``Exit status:``, becomes that
section. The pages have no version and no date, so that they change only with the commands.
"""

import argparse
import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from argparse_manpage.manpage import Manpage

from wasmdrop.cli import parser
from wasmdrop.cli.commands import COMMANDS, GROUPS

DIRECTORY: Final = Path(__file__).parent.parent / "docs/man"

#: Without wrapped lines, the pages do not depend on the terminal.
_UNWRAPPED: Final = functools.partial(argparse.HelpFormatter, width=1_000_000)

#: Flags, files and pages are to be copied: no hyphenation, and no wide gaps in place of it.
_WHOLE_WORDS: Final = ".nh\n.ad l\n"

_HEADING: Final = re.compile("(Exit status|Environment|Files|Examples?):[ \n]")
#: Sections after that of the options, in their order.
_SECTIONS: Final = ("exit status", "environment", "files", "examples")

_MAIN: Final = """\
Run WebAssembly modules that are dropped into a directory: each job in a fresh, confined process.

Each command has a page of its own, and shows a summary of it with --help.
"""
_EXIT_STATUS: Final = "0 success; others as in wasmdrop(1)."
_SETTINGS: Final = """\
Each setting is an environment variable, too, whose name is in brackets, and a key of the
configuration file. A flag has precedence over the environment, and the environment over the file.
"""
_ENVIRONMENT: Final = """\
All settings are environment variables; wasmdrop-config(1) lists them with their values and origins.
WASMDROP_CONFIG names the configuration file. NO_COLOR turns off colours.
"""
_FILES: Final = """\
The configuration file is the first of these that exists:

  the file that --config or WASMDROP_CONFIG names
  $XDG_CONFIG_HOME/wasmdrop/config.toml, or ~/.config/wasmdrop/config.toml
  /etc/wasmdrop/config.toml

wasmdrop-work(1) reads worker.toml in place of config.toml. The journal and compiled modules are in
the state directory: that of WASMDROP_STATE_DIR, else /var/lib/wasmdrop if it is writable, else
$XDG_STATE_HOME/wasmdrop or ~/.local/state/wasmdrop.
"""


def pages() -> dict[str, str]:
    """Return all pages by their file names."""
    whole = parser.build(list(COMMANDS))
    return dict(_pages(whole, "run WebAssembly modules that are dropped into a directory", ()))


def _pages(of: parser.Parser, summary: str, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    name = of.prog.replace(" ", "-")
    below = {f"{name}-{each}": text for each, text in of.summaries().items()}
    yield f"{name}.1", _page(of, name, summary, above, below)
    for each, its_parser in of.subparsers().items():
        yield from _pages(its_parser, below[f"{name}-{each}"], (*above, name))


def _page(
    of: parser.Parser, name: str, summary: str, above: tuple[str, ...], below: Mapping[str, str]
) -> str:
    texts = _texts(of, is_main=not above)
    command, *words = of.usage_words()
    of.description = of.epilog = None
    of.formatter_class = _UNWRAPPED
    page = Manpage(of)
    page.prog, page.source, page.manual, page.date = name, "wasmdrop", "wasmdrop", ""
    page.description = summary
    page.add_section("synopsis", "=", f".B {_escaped(command)}\n{_escaped(' '.join(words))}")
    page.add_section("description", "=", _roff(texts.pop("description")))
    if below:
        page.add_section("commands", "=", _commands(below, is_main=not above))
    for section in _SECTIONS:
        if section in texts:
            page.add_section(section, "=", _roff(texts[section]))
    related = (*above, *below)
    page.add_section("see also", "=", ",\n".join(f".BR {_escaped(each)} (1)" for each in related))
    text = re.sub(r"\n{2,}", "\n", str(page))
    # The pages of commands with actions repeat the usage of each one above its description.
    text = re.sub(r"(?m)^(usage: .*\n)(?!\.)", r"\1.PP\n", text)
    return re.sub(r"(?m)^(\.TH .*\n)", rf"\1{_WHOLE_WORDS}", text)


def _texts(of: parser.Parser, *, is_main: bool) -> dict[str, str]:
    """Return the texts of a parser by the sections of its page."""
    texts: dict[str, str] = {}
    for text in (_MAIN if is_main else of.description or "", of.epilog or ""):
        for paragraph in re.split(r"\n{2,}", text.strip("\n")):
            found = _HEADING.match(paragraph)
            section = found[1].lower() if found else "description"
            section = "examples" if section == "example" else section
            texts[section] = (
                f"{texts.get(section, '')}\n\n{paragraph[found.end() if found else 0 :]}"
            )
    texts.setdefault("exit status", _EXIT_STATUS)
    has_settings = any(group.title == "settings" for group in of._action_groups)  # noqa: SLF001
    if is_main or has_settings:
        settings = _ENVIRONMENT if is_main else _SETTINGS
        for section, text in (("environment", settings), ("files", _FILES)):
            texts[section] = f"{texts.get(section, '')}\n\n{text}"
    return texts


def _commands(below: Mapping[str, str], *, is_main: bool) -> str:
    lines = []
    for purpose, names in GROUPS.items() if is_main else [("", below)]:
        lines += [f".SS {purpose}"] if is_main else []
        for name in (f"wasmdrop-{each}" if is_main else each for each in names):
            lines += [".TP", f".BR {_escaped(name)} (1)", _escaped(below[name])]
    return "\n".join(lines)


def _roff(text: str) -> str:
    """Return paragraphs as roff; indented lines stay as they are."""
    lines: list[str] = []
    for is_fixed, block in itertools.groupby(text.strip("\n").splitlines(), _is_indented):
        if is_fixed:
            lines += [".PP", ".RS 4", ".nf"] if lines else [".RS 4", ".nf"]
            lines += [_escaped(line[2:]) for line in block]
            lines += [".fi", ".RE"]
        else:
            lines += [_escaped(line) if line else ".PP" for line in block]
    return re.sub(r"(\.PP\n)+(?=\.PP\n)", "", "\n".join(lines) + "\n").strip("\n")


def _is_indented(line: str) -> bool:
    return line.startswith("  ")


def _escaped(line: str) -> str:
    line = line.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{line}" if line.startswith((".", "'")) else line


def main() -> None:
    """Write the pages; remove those of commands that are no more."""
    DIRECTORY.mkdir(exist_ok=True)
    made = pages()
    for old in DIRECTORY.glob("*.1"):
        if old.name not in made:
            old.unlink()
    for name, page in made.items():
        (DIRECTORY / name).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
