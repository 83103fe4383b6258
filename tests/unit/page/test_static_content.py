"""The files of the page keep to its policy: nothing inline or from elsewhere, and text as text."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest

import wasmdrop.page

STATIC: Final = Path(wasmdrop.page.__file__).with_name("static")
FILES: Final = sorted(STATIC.iterdir())

#: What turns text into markup, code or style, or comes from elsewhere.
FORBIDDEN: Final = {
    ".js": r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|Function\("
    r"|setHTML|createContextualFragment|\"style\"|https?://(?!www\.w3\.org/2000/svg\")",
    ".css": r"url\(|@import|@font-face|expression\(",
}


def of_type(suffix: str) -> list[Path]:
    """Return the files of one type."""
    return [path for path in FILES if path.suffix == suffix]


class _Markup(HTMLParser):
    """Notes all that the policy forbids, and all links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        values = dict(attrs)
        self.faults += [name for name in values if name.startswith("on") or name == "style"]
        self.faults += ["style"] if tag == "style" else []
        self.faults += ["script"] if tag == "script" and "src" not in values else []
        names = ("src", "href", "action")
        self.links += [link for name in names if (link := values.get(name)) is not None]
        self.ids += [values["id"] or ""] if "id" in values else []


@pytest.mark.parametrize("path", of_type(".html"), ids=lambda path: path.name)
def test_markup_has_nothing_inline_and_links_to_files_of_the_page(path: Path) -> None:
    """Links are relative, so that the page works below a path of a proxy."""
    markup = _Markup(path.read_text(encoding="utf-8"))
    assert markup.faults == []
    for link in markup.links:
        name = link.removeprefix("static/")
        known = {"login", "logout", "api/v1/overview", *(f"#{one}" for one in markup.ids)}
        assert link in known or (name != link and (STATIC / name).is_file()), link


@pytest.mark.parametrize("path", of_type(".js"), ids=lambda path: path.name)
def test_script_sets_text_only_and_imports_files_of_the_page(path: Path) -> None:
    """Names of others can't become markup."""
    text = path.read_text(encoding="utf-8")
    assert re.findall(FORBIDDEN[".js"], text) == []
    for name in re.findall(r'from "([^"]*)"', text):
        assert name.startswith("./")
        assert (STATIC / name).is_file(), name


@pytest.mark.parametrize("path", of_type(".css"), ids=lambda path: path.name)
def test_style_comes_from_the_daemon_alone(path: Path) -> None:
    """No fonts, no pictures, no further style sheets."""
    assert re.findall(FORBIDDEN[".css"], path.read_text(encoding="utf-8")) == []


def test_script_finds_each_of_its_elements_in_the_markup() -> None:
    """A misspelt name would show when the page is open, and then in some states only."""
    markup = _Markup((STATIC / "index.html").read_text(encoding="utf-8"))
    scripts = "".join(path.read_text(encoding="utf-8") for path in of_type(".js"))
    names = set(re.findall(r'byId\("([^"]+)"\)', scripts))
    assert names <= set(markup.ids)
    assert len(markup.ids) == len(set(markup.ids))
