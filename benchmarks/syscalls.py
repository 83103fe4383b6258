"""What strace(1) writes, as values: pure, from lines of ``-f -ttt`` to calls."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["Call", "parse"]

_LINE: Final = re.compile(r"(?P<task>\d+) +(?P<at>\d+\.\d+) (?P<rest>.*)")
_RESUMED: Final = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_UNFINISHED: Final = " <unfinished ...>"
#: By the last sign: what is written may hold others.
_CALL: Final = re.compile(
    r"(?P<call>.*\)) += (?P<result>0x[0-9a-f]+|-?\d+|\?)(?: .*?)??(?: <(?P<took>\d+\.\d+)>)?"
)


@dataclass(frozen=True)
class Call:
    """One call of one thread that came to its end; times in seconds since 1970."""

    task: int
    began: float
    ended: float
    name: str
    text: str
    """The call with its arguments, as strace wrote it."""
    result: int


def parse(lines: Iterable[str]) -> list[Call]:
    """Return the calls of ``lines``, in the order in which they ended."""
    calls = []
    begun: dict[int, tuple[float, str]] = {}
    for line in lines:
        if (found := _LINE.fullmatch(line)) is None:
            continue
        task, at, rest = int(found["task"]), float(found["at"]), found["rest"]
        if rest.endswith(_UNFINISHED):
            begun[task] = at, rest.removesuffix(_UNFINISHED)
            continue
        began, text = at, rest
        if (resumed := _RESUMED.fullmatch(rest)) is not None:
            # One that began before the first line has nothing but its end.
            began, before = begun.pop(task, (at, f"{resumed['name']}("))
            text = before + resumed["rest"]
        if (whole := _CALL.fullmatch(text)) is None:
            continue
        result = -1 if whole["result"] == "?" else int(whole["result"], 0)
        # The line of a call that was not interrupted tells when it began, and -T how long it took;
        # that of one that was, when it ended.
        ended = at if resumed is not None else began + float(whole["took"] or 0)
        name = whole["call"].partition("(")[0]
        calls.append(Call(task, began, ended, name, whole["call"], result))
    return calls
