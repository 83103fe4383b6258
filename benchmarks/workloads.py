"""Workloads: which module is called with what, and what must come of it.

To add one: append it in :func:`find`, with a reason where it can't be run here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import wasmtime

__all__ = ["LeftOut", "Workload", "find"]

_EXAMPLES: Final = Path(__file__).resolve().parent.parent / "examples"

#: Arguments change from drop to drop, so that no result of an earlier drop passes for a later one.
_FIB_FROM, _FIB_MANY = 5, 10


@dataclass(frozen=True)
class Workload:
    """One module, and inputs for it by the serial number of the drop."""

    name: str
    module: bytes
    entry: str
    args: Callable[[int], list[Any]]
    results: Callable[[int], list[Any]]
    slow_elsewhere: bool = False
    """Whether scripts that compile the module for each job take long over it."""

    @property
    def module_name(self) -> str:
        """How inputs name the module."""
        return self.name.replace(" ", "-")

    def input(self, serial: int) -> dict[str, Any]:
        """Return the input of one drop."""
        return {"entry": self.entry, "args": self.args(serial), "module": self.module_name}


@dataclass(frozen=True)
class LeftOut:
    """A workload that can't be run here."""

    name: str
    reason: str


def find() -> list[Workload | LeftOut]:
    """Return all workloads, in the order of the tables."""
    return [_fib_wat(), _fib_go()]


def _fib_wat() -> Workload:
    text = (_EXAMPLES / "fib" / "fib.wat").read_text(encoding="utf-8")
    return Workload("fib", bytes(wasmtime.wat2wasm(text)), "fib", _fib_args, _fib_results)


def _fib_go() -> Workload | LeftOut:
    path = _EXAMPLES / "build" / "fib-go.wasm"
    if not path.is_file():
        return LeftOut("fib Go", f"{path} is not there; `python examples/build.py` makes it")
    return Workload("fib Go", path.read_bytes(), "fib", _fib_args, _fib_results, True)


def _fib_args(serial: int) -> list[Any]:
    return [_FIB_FROM + serial % _FIB_MANY]


def _fib_results(serial: int) -> list[Any]:
    first, second = 0, 1
    for _ in range(_FIB_FROM + serial % _FIB_MANY):
        first, second = second, first + second
    return [first]
