"""The floor in Python: what fork_floor.c does, in a warm process with wasmtime loaded.

python floor.py CODE ENTRY EXPECTED STDIN DIRECTORY SECONDS WORKERS [ARGUMENT ...]

Arguments and output are those of fork_floor.c. There is no drop, journal, confinement or result
file. CODE may also be a component, which each fork instantiates: EXPECTED and ARGUMENT are then in
JSON.
"""

import gc
import json
import os
import resource
import statistics
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import wasmtime
from wasmtime import component

_ALONE: Final = 100
_NONE: Final = "-"
_SHARE: Final = struct.Struct("dd")


def main() -> None:
    """Measure and print."""
    code, entry, expected, stdin, directory, seconds, workers, *arguments = sys.argv[1:]
    engine = wasmtime.Engine()
    try:
        module = wasmtime.Module.deserialize_file(engine, code)
    except wasmtime.WasmtimeError:
        is_right = _component_check(engine, code, entry, expected, arguments)
    else:
        is_right = _module_check(engine, module, entry, expected, stdin, directory, arguments)
    gc.collect()
    gc.freeze()
    gc.disable()
    found = _alone(is_right) | _together(is_right, float(seconds), int(workers))
    sys.stdout.write(json.dumps(found) + "\n")


def _component_check(
    engine: wasmtime.Engine, code: str, entry: str, expected: str, arguments: Sequence[str]
) -> Callable[[], bool]:
    """Return a function that instantiates and calls the component and checks its result."""
    made = component.Component.deserialize_file(engine, code)
    linker = component.Linker(engine)
    linker.add_wasip2()
    values, wanted = [json.loads(word) for word in arguments], json.loads(expected)

    def is_right() -> bool:
        store = wasmtime.Store(engine)
        store.set_wasi(wasmtime.WasiConfig())
        function = linker.instantiate(store, made).get_func(store, entry)
        return function is not None and vars(function(store, *values)) == wanted

    return is_right


def _module_check(
    engine: wasmtime.Engine,
    module: wasmtime.Module,
    entry: str,
    expected: str,
    stdin: str,
    directory: str,
    arguments: Sequence[str],
) -> Callable[[], bool]:
    """Instantiate the module; return a function that calls it and checks its result."""
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    exports: Any = linker.instantiate(store, module).exports(store)
    numbers = [int(word) for word in arguments]

    def function_is_right() -> bool:
        if "_initialize" in exports:  # a WASI reactor, as Go builds it
            store.set_wasi(wasmtime.WasiConfig())
            exports["_initialize"](store)
        return bool(exports[entry](store, *numbers) == int(expected))

    def command_is_right() -> bool:
        output = os.memfd_create("output")
        world = wasmtime.WasiConfig()
        world.stdout_file = f"/proc/self/fd/{output}"
        if stdin != _NONE:
            world.stdin_file = stdin
        if directory != _NONE:
            world.preopen_dir(directory, "/")
        store.set_wasi(world)
        exports[entry](store)
        return os.pread(output, len(wanted) + 1, 0) == wanted

    if entry != "_start":
        return function_is_right
    wanted = Path(expected).read_bytes()
    return command_is_right


def _once(is_right: Callable[[], bool]) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(not is_right())
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("the result was wrong")


def _alone(is_right: Callable[[], bool]) -> dict[str, float]:
    """Return the seconds of a job and its processor time, one job after the other."""
    taken, before = [], _processor_seconds()
    for _ in range(_ALONE):
        started = time.perf_counter()
        _once(is_right)
        taken.append(time.perf_counter() - started)
    cpu = (_processor_seconds() - before) / _ALONE
    return {"seconds": statistics.median(taken), "cpu_seconds": cpu}


def _together(is_right: Callable[[], bool], seconds: float, workers: int) -> dict[str, float]:
    """Return jobs per second of this many processes side by side, and processor time of a job."""
    reader, writer = os.pipe()
    for _ in range(workers):
        if os.fork() == 0:
            count, before = 0, _processor_seconds()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                _once(is_right)
                count += 1
            os.write(writer, _SHARE.pack(count, _processor_seconds() - before))
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as shares:
        jobs, cpu = map(sum, zip(*_SHARE.iter_unpack(shares.read()), strict=True))
    for _ in range(workers):
        os.wait()
    return {"rate": jobs / seconds, "rate_cpu_seconds": cpu / jobs}


def _processor_seconds() -> float:
    """Return the processor time of this process and its ended children."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in usages)


if __name__ == "__main__":
    main()
