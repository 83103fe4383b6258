"""Read the custom sections of a module, and check that the file is complete.

Runs before the compiler, so it assumes nothing but the preamble.
"""

import contextlib
from typing import Final, NamedTuple

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import one_line
from wasmdrop.sandbox.guest.binary_reader import BinaryReader
from wasmdrop.sandbox.guest.file_type import PREAMBLE_BYTES

_CUSTOM: Final = 0

#: Producers that a summary lists, and characters of each.
_PRODUCERS: Final = 8
_PRODUCER_SHOWN: Final = 60


class CustomSections(NamedTuple):
    """The contents of the known custom sections."""

    is_relocatable: bool = False
    """Whether the module has symbols for a linker, as object files and ``--emit-relocs`` do."""
    producers: tuple[str, ...] = ()
    """Languages and tools that made it, with versions, from the ``producers`` section."""


def read_custom_sections(module: bytes) -> CustomSections:
    """Read the custom sections of a module or component.

    Raises ``RefusedError`` with ``INVALID_MODULE`` if the file ends in the middle of a section.
    """
    reader = BinaryReader(module, PREAMBLE_BYTES, len(module))
    sections = CustomSections()
    while reader.position < reader.end:
        start = reader.position
        try:
            number, size = reader.byte(), reader.u32()
        except RefusedError:
            raise _cut_short(f"at {start:#x}, in the middle of a section's header") from None
        left = reader.end - reader.position
        if size > left:
            raise _cut_short(f"section {number} at {start:#x} has {left} of {size} bytes")
        section = reader.part(size)
        if number == _CUSTOM:
            # The compiler ignores malformed custom sections, too.
            with contextlib.suppress(RefusedError):
                sections = _with_section(sections, section)
    return sections


def _cut_short(where: str) -> RefusedError:
    return RefusedError(
        Code.INVALID_MODULE,
        f"the file is cut short or damaged: {where}; copy the whole file to a temporary name, then"
        " rename it into place",
    )


def _with_section(sections: CustomSections, section: BinaryReader) -> CustomSections:
    name = section.name()
    if name == "linking":
        return sections._replace(is_relocatable=True)
    if name == "producers":
        return sections._replace(producers=_producers(section))
    return sections


def _producers(section: BinaryReader) -> tuple[str, ...]:
    """Return names and versions, languages first."""
    found: list[tuple[bool, str]] = []
    for _ in range(section.count()):
        is_tool = section.name() != "language"
        for _ in range(section.count()):
            name, version = section.name(), section.name()
            if len(found) < _PRODUCERS:
                found.append((is_tool, one_line(f"{name} {version}".strip(), _PRODUCER_SHOWN)))
    return tuple(shown for _is_tool, shown in sorted(found))
