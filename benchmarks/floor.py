"""The bare floor: the cost of a fresh process for each call, and nothing else.

python floor.py HOW MODULE ENTRY ARGUMENT RESULT SECONDS WORKERS

HOW is the way to call. `map`: a warm process with wasmtime loaded forks; the fork maps the machine
code, creates an instance, calls, checks the result, and exits. `fork`: the same with the machine
code mapped before the fork. Otherwise: the path of the program of native.c, started for each call.
There is no drop, journal, confinement or result file. Prints ms per job of one worker alone, and
jobs per second of all workers, each a process, as JSON.
"""

import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import wasmtime

_ALONE = 200


def main() -> None:
    """Measure and print."""
    how, path, entry = sys.argv[1:4]
    argument, result, seconds, workers = (int(word) for word in sys.argv[4:8])
    engine = wasmtime.Engine()
    with tempfile.NamedTemporaryFile() as code:
        # Compiled in another process, so that this one stays small.
        pid = os.fork()
        if pid == 0:
            code.write(wasmtime.Module.from_file(engine, path).serialize())
            code.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        if how in {"map", "fork"}:
            calls_wasi = b"wasi_snapshot_preview1" in Path(path).read_bytes()
            call = _caller(engine, code.name, entry, calls_wasi, maps_first=how == "fork")
            job = _forks(lambda: call(argument) == result)
        else:
            job = _starts([how, code.name, entry, str(argument)], result)
        gc.collect()
        gc.freeze()
        gc.disable()
        alone = []
        for _ in range(_ALONE):
            started = time.perf_counter()
            job()
            alone.append(time.perf_counter() - started)
        rate = _together(job, seconds, workers)
    sys.stdout.write(json.dumps({"seconds": statistics.median(alone), "rate": rate}) + "\n")


def _caller(
    engine: wasmtime.Engine, code: str, entry: str, calls_wasi: bool, *, maps_first: bool
) -> Callable[[int], object]:
    """Return a function that creates an instance and calls it."""
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    mapped = wasmtime.Module.deserialize_file(engine, code) if maps_first else None

    def call(argument: int) -> object:
        module = mapped or wasmtime.Module.deserialize_file(engine, code)
        store = wasmtime.Store(engine)
        if calls_wasi:
            store.set_wasi(wasmtime.WasiConfig())
        exports = linker.instantiate(store, module).exports(store)
        start, function = exports.get("_initialize"), exports[entry]
        if isinstance(start, wasmtime.Func):  # a WASI reactor, as Go builds it
            start(store)
        return function(store, argument) if isinstance(function, wasmtime.Func) else None

    return call


def _forks(is_right: Callable[[], bool]) -> Callable[[], None]:
    """Return a job that is a fork of this process."""

    def job() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(not is_right())
        if os.waitpid(pid, 0)[1]:
            raise SystemExit("the result was wrong")

    return job


def _starts(command: list[str], result: int) -> Callable[[], None]:
    """Return a job that is a program, started without copying this process."""

    def job() -> None:
        reader, writer = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
        os.close(writer)
        with os.fdopen(reader) as printed:
            found = printed.read().split()
        if os.waitpid(pid, 0)[1] or found[:1] != [str(result)]:
            raise SystemExit("the result was wrong")

    return job


def _together(job: Callable[[], None], seconds: int, workers: int) -> float:
    """Return the jobs per second of this many processes side by side."""
    reader, writer = os.pipe()
    for _ in range(workers):
        if os.fork() == 0:
            count, end = 0, time.perf_counter() + seconds
            while time.perf_counter() < end:
                job()
                count += 1
            os.write(writer, b"%d\n" % count)
            os._exit(0)
    os.close(writer)
    for _ in range(workers):
        os.wait()
    with os.fdopen(reader) as counts:
        return sum(int(line) for line in counts) / seconds


if __name__ == "__main__":
    main()
