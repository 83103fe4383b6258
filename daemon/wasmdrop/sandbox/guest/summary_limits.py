"""Limits of a module's summary, so that it fits in a report and in the daemon's memory."""

from typing import Final

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.outcome import Code

#: Imports and exports together. An estimate: more than real programs have, and few enough for the
#: daemon's memory.
MAX_NAMES: Final = 20_000
#: Names of imports and exports together, in UTF-8.
MAX_NAME_BYTES: Final = 2 * 1024 * 1024
#: Types of imports and exported functions together, in text form. Without this limit, 20,000
#: exports of one type with 1,000 parameters would turn a 200 kB module into a 100 MB summary.
MAX_TYPE_CHARACTERS: Final = 1024 * 1024


class SummaryLimits:
    """Counts the parts of one summary; raises ``RefusedError`` with ``COMPILE_LIMIT``."""

    def __init__(self) -> None:
        self._names = self._name_bytes = self._type_characters = 0

    def count_names(self, count: int, what: str = "imports and exports") -> None:
        """Count imports or exports."""
        self._names += count
        _refuse_above(MAX_NAMES, self._names, what)

    def count_name(self, name: str) -> None:
        """Count the size of a name."""
        self._name_bytes += len(name.encode())
        _refuse_above(MAX_NAME_BYTES, self._name_bytes, "bytes of names")

    def count_type(self, text: str) -> None:
        """Count the size of a type."""
        self._type_characters += len(text)
        _refuse_above(MAX_TYPE_CHARACTERS, self._type_characters, "characters of types")


def _refuse_above(limit: int, number: int, what: str) -> None:
    if number > limit:
        raise RefusedError(
            Code.COMPILE_LIMIT,
            f"the module has at least {number} {what}; at most {limit} are accepted",
        )
