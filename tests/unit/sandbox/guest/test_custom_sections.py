"""Custom sections of modules and components, and truncated files."""

import pytest

from tests.support.security.binaries import leb, module, section, vector
from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.guest.custom_sections import CustomSections, read_custom_sections


def name(text: str) -> bytes:
    """Return a name: the length, then the text."""
    return leb(len(text.encode())) + text.encode()


def producers(*fields: tuple[str, list[tuple[str, str]]]) -> bytes:
    """Return a ``producers`` section."""
    content = vector(
        name(field) + vector(name(tool) + name(version) for tool, version in tools)
        for field, tools in fields
    )
    return section(0, name("producers") + content)


def test_module_without_custom_sections_has_none() -> None:
    """Other sections are skipped."""
    assert read_custom_sections(module(section(1, b"\0"))) == CustomSections()


def test_producers_are_listed_with_languages_first() -> None:
    """On one line each, and no more than eight."""
    tools = [(f"tool\n{number}", "1.0") for number in range(10)]
    found = read_custom_sections(
        module(producers(("processed-by", tools), ("language", [("Rust", "")])))
    )
    assert len(found.producers) == 8
    assert all("\n" not in shown for shown in found.producers)
    found = read_custom_sections(
        module(producers(("processed-by", tools[:1]), ("language", [("Rust", "")])))
    )
    assert found.producers[0] == "Rust"


def test_linking_section_marks_module_as_relocatable() -> None:
    """Object files have one."""
    assert read_custom_sections(module(section(0, name("linking")))).is_relocatable


def test_malformed_custom_section_is_ignored() -> None:
    """As the compiler does; sections after it are read."""
    malformed = section(0, name("producers") + b"\xff\xff\xff\xff\x0f")
    found = read_custom_sections(module(malformed, section(0, name("linking"))))
    assert found == CustomSections(is_relocatable=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (module(b"\x01"), "in the middle of a section's header"),
        (module(b"\x01\x05\0"), "section 1 at 0x8 has 1 of 5 bytes"),
    ],
)
def test_truncated_file_is_refused_with_offset(data: bytes, message: str) -> None:
    """The message also says what to do."""
    with pytest.raises(RefusedError) as caught:
        read_custom_sections(data)
    assert caught.value.code is Code.INVALID_MODULE
    assert message in caught.value.message
    assert "copy the whole file" in caught.value.message
