"""Parse the output of ``strace -f -ttt`` into calls."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_LINE: Final = re.compile(r"(?P<task>\d+) +(?P<at>\d+\.\d+) (?P<rest>.*)")
_RESUMED: Final = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_UNFINISHED: Final = " <unfinished ...>"
#: The last equals sign, because arguments may contain others.
_CALL: Final = re.compile(
    r"(?P<call>.*\)) += (?P<result>0x[0-9a-f]+|-?\d+|\?)(?: .*?)??(?: <(?P<took>\d+\.\d+)>)?"
)


@dataclass(frozen=True)
class Call:
    """One finished call of one thread; times in seconds since 1970."""

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
            # A call that began before the first line has only its end.
            began, before = begun.pop(task, (at, f"{resumed['name']}("))
            text = before + resumed["rest"]
        if (whole := _CALL.fullmatch(text)) is None:
            continue
        result = -1 if whole["result"] == "?" else int(whole["result"], 0)
        # The line of a call that was not interrupted has its start, and with -T its duration; the
        # line that resumes an interrupted one has its end.
        ended = at if resumed is not None else began + float(whole["took"] or 0)
        name = whole["call"].partition("(")[0]
        calls.append(Call(task, began, ended, name, whole["call"], result))
    return calls
