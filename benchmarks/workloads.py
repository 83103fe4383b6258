"""Workloads: modules with inputs and expected results.

To add one: append it in :func:`find`, with a reason if it can't run on this machine.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import wasmtime

_HERE: Final = Path(__file__).resolve().parent
_EXAMPLES: Final = _HERE.parent / "examples"

#: Arguments change from drop to drop, so that no result of an earlier drop passes for a later one.
_FIB_FROM, _FIB_MANY = 5, 10

#: Constants and rounds of spin.wat, for a few tens of milliseconds.
_SPIN_FACTOR: Final = 6364136223846793005
_SPIN_STEP: Final = 1442695040888963407
_SPIN_TURNS: Final = 30_000_000


@dataclass(frozen=True)
class Wanted:
    """Expected result of a drop: the values of a function, or the output of a program."""

    results: list[Any] | None = None
    stdout: bytes | None = None


@dataclass(frozen=True)
class Workload:
    """One module, and inputs for it by the serial number of the drop."""

    name: str
    module: bytes
    content: Callable[[int], dict[str, Any]]
    """What the input holds beside the module's name."""
    wanted: Callable[[int], Wanted]
    slow_elsewhere: bool = False
    """Whether scripts that compile the module for each job take long over it."""
    is_small: bool = True
    """Whether a job is over so soon that a thousand of them say something of the daemon."""
    everywhere: bool = True
    """Whether the other contenders can run it, too."""

    @property
    def module_name(self) -> str:
        """Return the name by which inputs refer to the module."""
        return self.name.replace(" ", "-")

    def input(self, serial: int) -> dict[str, Any]:
        """Return the input of one drop."""
        return self.content(serial) | {"module": self.module_name}


@dataclass(frozen=True)
class LeftOut:
    """A workload that can't run on this machine."""

    name: str
    reason: str


def find() -> list[Workload | LeftOut]:
    """Return all workloads, in the order of the tables."""
    return [_fib_wat(), _fib_go(), _echo(), _spin(), _component(), _cpython()]


def _fib_wat() -> Workload:
    module = wasmtime.wat2wasm((_EXAMPLES / "fib" / "fib.wat").read_text(encoding="utf-8"))
    return Workload("fib", bytes(module), _fib_content, _fib_wanted)


def _fib_go() -> Workload | LeftOut:
    built = _built("fib Go", "fib-go.wasm")
    if isinstance(built, LeftOut):
        return built
    return Workload("fib Go", built, _fib_content, _fib_wanted, slow_elsewhere=True)


def _echo() -> Workload:
    """Return a WASI command that prints the 100 kB of its standard input."""
    module = wasmtime.wat2wasm((_HERE / "echo.wat").read_text(encoding="utf-8"))

    def text(serial: int) -> str:
        return f"{serial:09}\n" * 10_000

    return Workload(
        "WASI 100 kB",
        bytes(module),
        lambda serial: {"stdin": text(serial)},
        lambda serial: Wanted(stdout=text(serial).encode()),
        is_small=False,
        everywhere=False,
    )


def _spin() -> Workload:
    """Return a function that computes for a few tens of milliseconds."""
    module = wasmtime.wat2wasm((_HERE / "spin.wat").read_text(encoding="utf-8"))

    def wanted(serial: int) -> Wanted:
        # All rounds of x -> x * a + c at once; see spin.wat.
        power, geometric = pow(_SPIN_FACTOR, _SPIN_TURNS, 1 << 64), 0
        factor, term, turns = _SPIN_FACTOR, 1, _SPIN_TURNS
        while turns:  # the sum of the powers, by halves
            if turns & 1:
                geometric = (geometric * factor + term) % (1 << 64)
            term = term * (1 + factor) % (1 << 64)
            factor = factor * factor % (1 << 64)
            turns >>= 1
        value = (serial * power + _SPIN_STEP * geometric) % (1 << 64)
        return Wanted(results=[value >> 1])

    return Workload(
        "computing",
        bytes(module),
        lambda serial: {"entry": "spin", "args": [serial, _SPIN_TURNS]},
        wanted,
        is_small=False,
    )


def _component() -> Workload | LeftOut:
    built = _built("component", "summarize-py.wasm")
    if isinstance(built, LeftOut):
        return built
    return Workload(
        "component",
        built,
        lambda serial: {"entry": "summarize", "args": [[1.5, 2.5, float(serial)]]},
        lambda serial: Wanted(results=[_summary([1.5, 2.5, float(serial)])]),
        is_small=False,
        everywhere=False,
    )


def _summary(values: list[float]) -> dict[str, Any]:
    return {
        "count": len(values),
        "mean": statistics.fmean(values),
        "deviation": statistics.pstdev(values),
        "largest": max(values),
    }


def _cpython() -> Workload | LeftOut:
    built = _built("CPython", "programs/cpython.wasm")
    if isinstance(built, LeftOut):
        return built
    return Workload(
        "CPython",
        built,
        lambda serial: {"args": ["-c", f"print({serial} * 2)"]},
        lambda serial: Wanted(stdout=f"{serial * 2}\n".encode()),
        is_small=False,
        everywhere=False,
    )


def _built(name: str, file: str) -> bytes | LeftOut:
    path = _EXAMPLES / "build" / file
    if not path.is_file():
        return LeftOut(name, f"{path} is not there; `python examples/build.py` makes it")
    return path.read_bytes()


def _fib_content(serial: int) -> dict[str, Any]:
    return {"entry": "fib", "args": [_fib_arg(serial)]}


def _fib_arg(serial: int) -> int:
    return _FIB_FROM + serial % _FIB_MANY


def _fib_wanted(serial: int) -> Wanted:
    first, second = 0, 1
    for _ in range(_fib_arg(serial)):
        first, second = second, first + second
    return Wanted(results=[first])
