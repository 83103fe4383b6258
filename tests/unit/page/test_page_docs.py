"""The reference of the API lists each key of its answers."""

import re
from pathlib import Path
from typing import Final

import msgspec
import pytest

from wasmdrop.page import model

PAGE: Final = Path(__file__).parents[3] / "docs" / "page.md"

STRUCTS: Final = [
    value
    for value in vars(model).values()
    if isinstance(value, type) and issubclass(value, msgspec.Struct) and value is not msgspec.Struct
]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_page_reference_lists_each_key(struct: type[msgspec.Struct]) -> None:
    """Under its name, as code."""
    text = PAGE.read_text().partition("## API")[2]
    shown = set(re.findall(r"`([a-z0-9_]+)`", text))
    assert set(struct.__struct_fields__) <= shown
