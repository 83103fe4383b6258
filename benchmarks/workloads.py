"""Workloads: modules with inputs and expected results.

To add one: append it in :func:`find`, with a reason if it can't run on this machine.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import wasmtime

_HERE: Final = Path(__file__).resolve().parent
_EXAMPLES: Final = _HERE.parent / "examples"

#: Arguments change from drop to drop, so that no result of an earlier drop passes for a later one.
_FIB_FROM, _FIB_MANY = 5, 10

#: Divisor of a burst of jobs that take several milliseconds themselves.
_SMALLER: Final = 10

#: Makes a table and queries it.
_SQL: Final = "CREATE TABLE t (n); INSERT INTO t VALUES (1), (?); SELECT sum(n) FROM t;"

#: Sleep of sleep.wat, and the line that it prints then.
SLEEP_SECONDS: Final = 0.1
_AWAKE: Final = b"awake\n"

#: Constants and rounds of spin.wat, for a few tens of milliseconds.
_SPIN_FACTOR: Final = 6364136223846793005
_SPIN_STEP: Final = 1442695040888963407
_SPIN_TURNS: Final = 30_000_000


@dataclass(frozen=True)
class Wanted:
    """Expected result of a drop: the values of a function, or output and files of a program."""

    results: list[Any] | None = None
    stdout: bytes | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    """Content of files below the slot's output directory, by name."""


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
    everywhere: bool = False
    """Whether the other contenders run it, too."""
    burst_divisor: int | None = 1
    """A burst has this fraction of the slots; None if there are no bursts of it."""
    has_floor: bool = True
    """Whether the floor can run it."""

    @property
    def module_name(self) -> str:
        """Return the name by which inputs refer to the module."""
        return self.name.replace(" ", "-")

    @property
    def is_component(self) -> bool:
        """Return whether it is a component, by its header."""
        return self.module[6:8] == b"\x01\0"

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
    return [
        *(_fib_wat(), _hello(), _fib_go()),
        *(_files(), _echo(), _quickjs(), _sqlite(), _component()),
        *(_spin(), _cpython()),
    ]


def sleeping(seconds: float = SLEEP_SECONDS) -> Workload:
    """Return a WASI command that sleeps and prints a line."""
    text = (_HERE / "sleep.wat").read_text(encoding="utf-8")
    nanoseconds = f"(i64.const {SLEEP_SECONDS * 1e9:.0f})"
    assert nanoseconds in text  # noqa: S101 - the constant of the module
    return Workload(
        f"sleep {seconds * 1e3:g}",
        bytes(wasmtime.wat2wasm(text.replace(nanoseconds, f"(i64.const {seconds * 1e9:.0f})"))),
        lambda _serial: {},
        lambda _serial: Wanted(stdout=_AWAKE),
    )


def _assembled(name: str) -> bytes:
    return bytes(wasmtime.wat2wasm((_HERE / name).read_text(encoding="utf-8")))


def _fib_wat() -> Workload:
    module = wasmtime.wat2wasm((_EXAMPLES / "fib" / "fib.wat").read_text(encoding="utf-8"))
    return Workload("fib", bytes(module), _fib_content, _fib_wanted, everywhere=True)


def _hello() -> Workload:
    """Return a WASI command that prints one line."""
    return Workload(
        "hello",
        _assembled("hello.wat"),
        lambda _serial: {},
        lambda _serial: Wanted(stdout=b"hello\n"),
        everywhere=True,
    )


def _fib_go() -> Workload | LeftOut:
    built = _built("fib Go", "fib-go.wasm")
    if isinstance(built, LeftOut):
        return built
    return Workload(
        "fib Go", built, _fib_content, _fib_wanted, slow_elsewhere=True, everywhere=True
    )


def _files() -> Workload:
    """Return a WASI command that copies a small file."""
    return Workload(
        "WASI files",
        _assembled("files.wat"),
        lambda serial: {"files": {"in.txt": f"{serial}\n"}},
        lambda serial: Wanted(stdout=b"", files={"out.txt": f"{serial}\n".encode()}),
        burst_divisor=_SMALLER,
    )


def _echo() -> Workload:
    """Return a WASI command that prints the 100 kB of its standard input."""

    def text(serial: int) -> str:
        return f"{serial:09}\n" * 10_000

    return Workload(
        "WASI 100 kB",
        _assembled("echo.wat"),
        lambda serial: {"stdin": text(serial)},
        lambda serial: Wanted(stdout=text(serial).encode()),
        burst_divisor=_SMALLER,
    )


def _quickjs() -> Workload | LeftOut:
    """Return a command that runs a script, which reads a file and writes another."""
    built = _built("QuickJS", "programs/quickjs.wasm")
    if isinstance(built, LeftOut):
        return built
    script = "write('out.txt', read(scriptArgs[0]).trim() + '!'); print(6 * 7);"
    return Workload(
        "QuickJS",
        built,
        lambda serial: {
            "args": ["it.js", "in.txt"],
            "files": {"it.js": script, "in.txt": f"{serial}\n"},
        },
        lambda serial: Wanted(stdout=b"42\n", files={"out.txt": f"{serial}!".encode()}),
        burst_divisor=_SMALLER,
        has_floor=False,
    )


def _sqlite() -> Workload | LeftOut:
    """Return a command that makes a database file and queries it."""
    built = _built("SQLite", "programs/sqlite.wasm")
    if isinstance(built, LeftOut):
        return built
    return Workload(
        "SQLite",
        built,
        lambda serial: {
            "args": ["it.db", "it.sql"],
            "files": {"it.sql": _SQL.replace("?", str(serial))},
        },
        lambda serial: Wanted(stdout=f"{serial + 1}\n".encode()),
        burst_divisor=_SMALLER,
        has_floor=False,
    )


def _spin() -> Workload:
    """Return a function that computes for a few tens of milliseconds."""

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
        _assembled("spin.wat"),
        lambda serial: {"entry": "spin", "args": [serial, _SPIN_TURNS]},
        wanted,
        burst_divisor=None,
        has_floor=False,
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
        burst_divisor=_SMALLER,
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
        burst_divisor=None,
        has_floor=False,
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
