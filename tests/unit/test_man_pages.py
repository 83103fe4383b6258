"""The man pages are those of the commands, and correct."""

import re
import subprocess

import pytest
from scripts import man_pages

from tests.support.require import require_tools

#: The pages have no date, so that they change only with the commands.
_NO_DATE = 'missing date, using "": TH'


@pytest.mark.parametrize("columns", ["30", "300"])
def test_man_pages_are_those_of_the_commands(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    """``make man`` was run after the last change of a command; terminals have no effect."""
    monkeypatch.setenv("COLUMNS", columns)
    committed = {
        path.name: path.read_text(encoding="utf-8") for path in man_pages.DIRECTORY.iterdir()
    }
    made = man_pages.pages()
    assert [name for name in made if made[name] != committed.get(name)] == []
    assert sorted(made) == sorted(committed)


def test_man_pages_are_correct_roff() -> None:
    """The linter of mandoc has nothing against them."""
    require_tools("mandoc")
    paths = sorted(map(str, man_pages.DIRECTORY.iterdir()))
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stdout.splitlines() if not line.endswith(_NO_DATE)] == []


def test_man_page_shows_sections_flags_and_examples() -> None:
    """Text that roff takes for its own is shown as it is in the parser."""
    require_tools("mandoc")
    page = man_pages.DIRECTORY / "wasmdrop-submit.1"
    done = subprocess.run(["mandoc", "-T", "ascii", page], capture_output=True, check=True)
    shown = re.sub(".\b", "", done.stdout.decode())
    sections = [line for line in shown.splitlines() if line.isupper() and line[0] != " "]
    wanted = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]
    assert [name for name in sections if name in wanted] == wanted
    assert "\n       --max-result-mb MB\n" in shown
    assert """echo '{"entry": "add", "args": [5, 7]}' | wasmdrop submit --wait -""" in shown


def test_man_pages_break_no_word_and_show_each_usage_in_a_line() -> None:
    """Flags and file names are to be copied; groff hyphenates them otherwise."""
    require_tools("mandoc")
    assert [name for name, page in man_pages.pages().items() if "\n.nh\n" not in page] == []
    page = man_pages.DIRECTORY / "wasmdrop-fleet.1"
    done = subprocess.run(["mandoc", "-T", "ascii", page], capture_output=True, check=True)
    shown = re.sub(".\b", "", done.stdout.decode())
    assert "\n       usage: wasmdrop fleet init [OPTION]...\n\n" in shown
