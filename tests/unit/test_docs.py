"""The pages agree with the code and with one another: links, tables of reference, length."""

import re
from pathlib import Path
from typing import Final

import pytest

from wasmdrop.cli.commands import COMMANDS
from wasmdrop.protocol.marker import Marker
from wasmdrop.protocol.outcome import Code
from wasmdrop.settings import SETTINGS, Option

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/*.md", "host/*/*.md")
    for page in ROOT.glob(pattern)
)

_MAX_README_LINES: Final = 130
_MAX_PICTURE_BYTES: Final = 150_000
_CODE_BLOCK: Final = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
#: A path of the repository, from its root, from the package or from the tests.
_PATH: Final = re.compile(r"`((?:\w+/)+\w+\.(?:py|md|sh|env|toml|yaml))`")
_BASES: Final = (ROOT, ROOT / "daemon/wasmdrop", ROOT / "tests")
_HYPHENATED: Final = re.compile(r"`([a-z]+(?:-[a-z]+)+)`")
_TOOLS_AND_VOLUMES: Final = {
    "ephemeral-storage",
    "lint-imports",
    "nats-server",
    "wasm-opt",
    "wasmdrop-shared",
    "wasmdrop-state",
    "wit-bindgen",
}


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _prose(page: Path) -> str:
    return _CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))


def _rows(text: str) -> list[list[str]]:
    """Return the cells of every table row whose first cell is code."""
    rows = re.findall(r"^\| (`.*) \|$", text, re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows]


def _section(text: str, heading: str) -> str:
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_of_each_page_resolve(page: Path) -> None:
    """Links lead to files that exist and to headings of those files."""
    for link in _LINK.findall(_prose(page)):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), link
        assert not heading or heading in _anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_paths_in_each_page_exist(page: Path) -> None:
    """Names of files of the repository are true."""
    if page.name == "CHANGELOG.md":  # it tells of the past
        return
    bases = (*_BASES, page.parent)
    paths = _PATH.findall(_prose(page))
    assert [path for path in paths if not any((base / path).exists() for base in bases)] == []


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_readme_length_is_bounded(name: str) -> None:
    """Details belong on the pages in docs."""
    assert len(_read(name).splitlines()) <= _MAX_README_LINES


def test_pictures_are_small_and_in_use() -> None:
    """A clone has every version of them."""
    pictures = list((ROOT / "docs/images").iterdir())
    assert [path.name for path in pictures if path.stat().st_size > _MAX_PICTURE_BYTES] == []
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [path.name for path in pictures if f"images/{path.name})" not in shown] == []


def test_readmes_have_the_same_commands_and_links() -> None:
    """The translation leads to the same pages and shows the same code."""
    english, chinese = _read("README.md"), _read("README.zh-CN.md")
    assert _CODE_BLOCK.findall(english) == _CODE_BLOCK.findall(chinese)
    links = [set(_LINK.findall(text)) for text in (english, chinese)]
    assert links[0] - {"README.zh-CN.md"} == links[1] - {"README.md"}


def test_table_of_codes_lists_each_code_with_its_rerun_rule() -> None:
    """The page and `Code` agree on which jobs run again."""
    told = {
        name: cells[-1]
        for cells in _rows(_section(_read("docs/protocol.md"), "Codes"))
        for name in re.findall(r"`([^`]+)`", cells[0])
    }
    rules = {
        code.value: "when the module changes"
        if code.of_the_module
        else "up to 3 attempts"
        if code.retried
        else ""
        for code in Code
    }
    assert told == rules


def test_table_of_the_marker_lists_each_key() -> None:
    """The page and `Marker` have the same keys."""
    rows = _rows(_section(_read("docs/protocol.md"), "The marker"))
    told = [name for cells in rows for name in re.findall(r"`([a-z_]+)`", cells[0])]
    assert sorted(told) == sorted(Marker.__struct_fields__)


def _told_settings() -> dict[str, str]:
    return {cells[0].strip("`"): cells[1] for cells in _rows(_read("docs/configuration.md"))}


def test_configuration_lists_each_setting_once() -> None:
    """The page and the table of settings have the same variables."""
    rows = [cells[0].strip("`") for cells in _rows(_read("docs/configuration.md"))]
    assert sorted(rows) == sorted(setting.variable for setting in SETTINGS)


@pytest.mark.parametrize(
    "setting",
    [each for each in SETTINGS if each.default not in {None, ""}],
    ids=lambda setting: setting.name,
)
def test_configuration_tells_the_default(setting: Option) -> None:
    """Fixed defaults are the same on the page and in the code."""
    assert _told_settings()[setting.variable].strip("`") == setting.text(setting.default)


def test_table_of_commands_lists_each_command() -> None:
    """The page and the command line have the same commands."""
    rows = _rows(_read("docs/cli.md"))
    told = {found[1] for cells in rows if (found := re.match(r"`wasmdrop ([a-z]+)", cells[0]))}
    assert told == set(COMMANDS)


def test_observability_lists_each_event_of_the_code() -> None:
    """Operators search the page for the events that they see in the log."""
    calls = re.compile(r"_log\.(?:info|warning|error|exception)\(\s*\"([a-z-]+)\"")
    source = (path.read_text(encoding="utf-8") for path in ROOT.glob("daemon/**/*.py"))
    events = {event for text in source for event in calls.findall(text)}
    assert events - set(re.findall(r"`([a-z-]+)`", _read("docs/observability.md"))) == set()


def test_hyphenated_names_on_the_pages_exist_in_the_code() -> None:
    """Log events, codes and states: operators search for the names that the pages give."""
    source = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("daemon/**/*.py"))
    pages = (page for page in PAGES if page.parent.name != "examples")
    names = {name for page in pages for name in _HYPHENATED.findall(_prose(page))}
    missing = [name for name in sorted(names) if f'"{name}"' not in source]
    assert set(missing) == _TOOLS_AND_VOLUMES
