"""Native programs, built if there is a compiler; and that of native.c compared with wasmdrop's run.

It shows whether wasmdrop runs the machine code of a module as fast as wasmtime alone does.
"""

import shutil
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import wasmtime
import wasmtime._ffi

from benchmarks.measures import Case
from benchmarks.tables import milliseconds, quantile, render
from benchmarks.workloads import Workload

#: The first of these that is installed builds it; all take the same arguments.
COMPILERS: Final = ("cc", "gcc", "clang")

_RUNS_A_STEP: Final = 5


class LackError(Exception):
    """The program can't be built on this machine; the message says why."""


def build(directory: Path, name: str, compilers: Sequence[str] = COMPILERS) -> Path:
    """Build ``name.c`` in ``directory`` and return the program's path; raise ``LackError``."""
    compiler = next(filter(None, map(shutil.which, compilers)), None)
    if compiler is None:
        raise LackError(f"there is no C compiler ({', '.join(compilers)})")
    # The same library as the daemon's, from the Python package.
    library = Path(str(wasmtime._ffi.dll._name))  # noqa: SLF001 - nowhere else
    source, program = Path(__file__).with_name(f"{name}.c"), directory / name
    words = ["-O2", "-std=c11", "-D_GNU_SOURCE", "-o", program, source, library]
    command = [compiler, *words, f"-Wl,-rpath,{library.parent}"]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LackError(f"{compiler} does not build {source.name}: {done.stderr.strip()}")
    return program


def call(program: Path, code: Path, entry: str, arguments: Sequence[int]) -> tuple[int, float]:
    """Call a function in a new process; return the result and the seconds of the call."""
    command = [str(program), str(code), entry, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    result, took_ns = (int(word) for word in done.stdout.split())
    return result, took_ns / 1e9


class NativeRun:
    """A function that computes, called by the native program in turns with wasmdrop's jobs."""

    title = "Computing: the run of wasmdrop beside the same machine code in a native process"

    def __init__(self, program: Path, workload: Workload, directory: Path) -> None:
        self._program = program
        self._workload = workload
        self._code = directory / "computing.code"
        module = wasmtime.Module(wasmtime.Engine(), workload.module)
        self._code.write_bytes(module.serialize())
        self.seconds: list[float] = []

    def step(self) -> None:
        """Measure some calls and check each."""
        for _ in range(_RUNS_A_STEP):
            serial = len(self.seconds)
            content = self._workload.input(serial)
            result, seconds = call(self._program, self._code, content["entry"], content["args"])
            if [result] != self._workload.wanted(serial).results:
                raise SystemExit(f"{self._program.name} gave {result} for {content}")
            self.seconds.append(seconds)

    def report(self, cases: Sequence[Case]) -> str:
        """Return the table: the native call, and the stage `run` of wasmdrop's markers."""
        case = next(one for one in cases if one.workload is self._workload and one.stages)
        ran = [one["run"] for one in case.stages]
        native = statistics.median(self.seconds)
        rows = [
            [
                who,
                str(len(seconds)),
                *(milliseconds(quantile(seconds, share)) for share in (0.5, 0.95)),
                milliseconds(min(seconds)),
                f"{statistics.median(seconds) / native:.3f}",
            ]
            for who, seconds in (("native", self.seconds), (f"{case.contender.name}, run", ran))
        ]
        head = ["who", "calls", "median ms", "p95 ms", "min ms", "so many times as long"]
        return render(head, rows, words=1)
