"""The contenders of a run, in the order of the tables: honest rivals before simple ones."""

from typing import Final

from benchmarks.contenders import (
    Contender,
    DurableWarmScript,
    PlainLoop,
    ShellLoop,
    WarmScript,
    Wasmdrop,
    WatchdogScript,
)
from benchmarks.variants import NotDurable, Unconfined

ALL: Final[tuple[type[Contender], ...]] = (
    Wasmdrop,
    DurableWarmScript,
    WarmScript,
    PlainLoop,
    ShellLoop,
    WatchdogScript,
    NotDurable,
    Unconfined,
)
