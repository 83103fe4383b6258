"""The README and its Chinese version say the same, as far as that can be told from outside."""

import re
from pathlib import Path
from typing import Final

import pytest

from wasmdrop.protocol.outcome import Code

ROOT: Final = Path(__file__).resolve().parents[2]
ENGLISH: Final = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES: Final = (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
CHINESE: Final = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")

_BLOCK: Final = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def _prose(text: str) -> str:
    return _BLOCK.sub("", text)


def _first_cells(text: str) -> list[list[str]]:
    rows = (line for line in text.splitlines() if line.startswith("| "))
    return [re.findall(r"`[^`]+`", row.split(" | ")[0]) for row in rows]


def test_both_have_the_same_commands() -> None:
    """What is to be typed, and what then appears, is no matter of language."""
    assert _BLOCK.findall(ENGLISH) == _BLOCK.findall(CHINESE)


def test_both_have_the_same_sections() -> None:
    """As many headings of each level, in the same order."""
    levels = [re.findall(r"^(#+) ", _prose(text), re.MULTILINE) for text in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1]


def test_both_have_tables_of_the_same_things() -> None:
    """Each row's settings, codes and commands; what is said of them is in words."""
    names = [_first_cells(_prose(text)) for text in (ENGLISH, CHINESE)]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("text", "when_the_module_changes", "attempts"),
    [
        (ENGLISH, "when the module changes", "up to 3 attempts"),
        (CHINESE, "模块变化时", "最多 3 次尝试"),
    ],
    ids=["english", "chinese"],
)
def test_table_of_codes_says_which_jobs_are_rerun(
    text: str, when_the_module_changes: str, attempts: str
) -> None:
    """Each code has a row, and the row says what the daemon does."""
    told: dict[str, str] = {}
    for row in re.findall(r"^\| `[a-z-]+`.*\|$", text, re.MULTILINE):
        codes, *_meaning, again = (cell.strip() for cell in row.strip("|").split("|"))
        for name in re.findall(r"`([^`]+)`", codes):
            told.setdefault(name, again)
    for code in Code:
        expected = when_the_module_changes if code.of_the_module else attempts
        assert told[code] == (expected if code.of_the_module or code.retried else ""), code


@pytest.mark.parametrize(
    "path",
    sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]),
    ids=str,
)
def test_what_a_page_links_to_is_there(path: Path) -> None:
    """Files, and headings of the page itself."""
    text = (ROOT / path).read_text(encoding="utf-8")
    folder = (ROOT / path).parent
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in _prose(text).splitlines()
        if line.startswith("#")
    }
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(text)):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        assert not file or (folder / file).exists(), link
        assert file or heading in headings, link
