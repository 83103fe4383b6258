"""The page docs/toolchains.md lists the same modules as the table."""

import re
from pathlib import Path
from typing import Final

from wasmdrop.sandbox.guest.toolchains import FILE_FORMATS, FOREIGN_MODULES

PAGE: Final = (Path(__file__).parents[4] / "docs" / "toolchains.md").read_text(encoding="utf-8")


def test_page_lists_foreign_modules_in_order_of_table() -> None:
    """The first match applies, on the page as in the code."""
    table = PAGE.partition("| it is … | do this |\n| --- | --- |\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+) \| (.+) \|$", table, re.MULTILINE)
    assert rows == [(kind.what, kind.remedy) for kind in FOREIGN_MODULES]


def test_every_foreign_module_has_a_pattern() -> None:
    """Of an import or of the compiler's message; an object file is recognized by its symbols."""
    assert [kind for kind in FOREIGN_MODULES if kind.imports is None and kind.refusal is None] == [
        FOREIGN_MODULES[0]
    ]
    assert FOREIGN_MODULES[-1].imports is not None
    assert FOREIGN_MODULES[-1].imports.match("anything at all")


def test_messages_are_parts_of_one_sentence() -> None:
    """They follow "it is" and a semicolon."""
    for what, remedy in [(file.what, file.remedy) for file in FILE_FORMATS] + [
        (kind.what, kind.remedy) for kind in FOREIGN_MODULES
    ]:
        assert "\n" not in what + remedy
        assert not remedy.endswith((".", ";"))
        assert remedy[0].islower()
