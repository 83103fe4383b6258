"""The bare floor: what a fresh process for each call costs, and nothing else.

python floor.py MODULE ENTRY ARGUMENT RESULT SECONDS WORKERS

Warm processes, one a worker, each with wasmtime loaded, fork for each call; the fork maps the
machine code, makes an instance, calls, checks the result, and exits. No drop, no journal, no
confinement, no result file. Prints the jobs of one worker alone in ms each, and those of all
workers in jobs a second, as JSON.
"""

import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import wasmtime

_ALONE = 200


def main() -> None:
    """Measure and print."""
    path, entry = sys.argv[1:3]
    argument, result, seconds, workers = (int(word) for word in sys.argv[3:7])
    engine = wasmtime.Engine()
    linker = wasmtime.Linker(engine)
    with tempfile.NamedTemporaryFile() as code:
        # Compiled in a process of its own, so that this one stays as small as it can be.
        pid = os.fork()
        if pid == 0:
            code.write(wasmtime.Module.from_file(engine, path).serialize())
            code.flush()
            os._exit(0)
        os.waitpid(pid, 0)

        def job() -> None:
            pid = os.fork()
            if pid == 0:
                store = wasmtime.Store(engine)
                module = wasmtime.Module.deserialize_file(engine, code.name)
                function = linker.instantiate(store, module).exports(store)[entry]
                is_right = isinstance(function, wasmtime.Func) and (
                    function(store, argument) == result
                )
                os._exit(not is_right)
            if os.waitpid(pid, 0)[1]:
                raise SystemExit("the result was wrong")

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


def _together(job: Callable[[], None], seconds: int, workers: int) -> float:
    """Return the jobs a second of so many processes side by side."""
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
