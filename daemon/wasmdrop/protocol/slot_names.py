"""Names of slots: which file is an input, and which names a slot may have.

A name is compared byte by byte: the composed and the decomposed form of a text are two names.
"""

import os
from typing import Final

__all__ = ["MOST_BYTES", "MOST_CHARACTERS", "SLOT_NAME", "is_slot_name", "stem_of_results"]

#: Characters of a slot's name.
MOST_CHARACTERS: Final = 200

#: Bytes of a slot's name in UTF-8. A file name may have 255, and the longest one in a slot is that
#: of an output that was set aside.
MOST_BYTES: Final = 255 - len("result-.output.aside-01234567.output")

#: The rule in words.
SLOT_NAME: Final = f"1 to {MOST_CHARACTERS} printable characters, at most {MOST_BYTES} bytes"

_INPUT: Final = "input.json"
_BEFORE, _AFTER = "input-", ".json"


def is_slot_name(name: str) -> bool:
    """Whether a slot may be called so: safe in a path, on a terminal and in a log."""
    return (
        0 < len(name) <= MOST_CHARACTERS
        and name.isprintable()  # no control character, direction override, or byte of no text
        and "/" not in name
        and len(os.fsencode(name)) <= MOST_BYTES
    )


def stem_of_results(file: str) -> str | None:
    """Return what the names of an input file's results begin with; None for no input's name."""
    if file == _INPUT:
        return "result"
    if file.startswith(_BEFORE) and file.endswith(_AFTER):
        name = file[len(_BEFORE) : -len(_AFTER)]
        if is_slot_name(name):
            return f"result-{name}"
    return None
