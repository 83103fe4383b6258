"""A contender: watchdog's observer, and warm processes that keep the compiled modules.

python warm_script.py MODULE_DIR SHARED_DIR [--fsync]

A good script of one file. Its jobs are not confined, have no timeout, and are lost in a crash.
"""

import functools
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import wasmtime
from watchdog.events import FileClosedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

modules, shared = (Path(word) for word in sys.argv[1:3])
is_durable = sys.argv[3:] == ["--fsync"]


@functools.cache
def load(name: str) -> tuple[wasmtime.Linker, wasmtime.Module, bool]:
    """Compile a module, once in each process; return also whether it needs WASI."""
    linker = wasmtime.Linker(wasmtime.Engine())
    linker.define_wasi()
    module = wasmtime.Module.from_file(linker.engine, str(modules / f"{name}.wasm"))
    return linker, module, bool(module.imports)


def run(path: Path) -> None:
    """Run one input: a function, or a WASI command if it names no entry."""
    job = json.loads(path.read_bytes())
    entry, args = job.get("entry", "_start"), job.get("args", [])
    stem = path.stem.replace("input", "result", 1)
    names = [f"{stem}.json", f"{stem}.done"]
    linker, module, needs_wasi = load(job["module"])
    store = wasmtime.Store(linker.engine)
    if needs_wasi:
        wasi = wasmtime.WasiConfig()
        if entry == "_start":
            wasi.argv, args = [job["module"], *args], []
            names.insert(0, f"{stem}.stdout")
            wasi.stdout_file = str(shared / f".{names[0]}")
        store.set_wasi(wasi)
    try:
        exports: Any = linker.instantiate(store, module).exports(store)
        if "_initialize" in exports:
            exports["_initialize"](store)
        result = {"results": [exports[entry](store, *args)]}
    except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
        result = {"error": [str(error), getattr(error, "code", None)]}
    (shared / f".{stem}.json").write_text(json.dumps(job | result))
    (shared / f".{stem}.done").write_text("{}")
    for name in names if is_durable else ():
        with (shared / f".{name}").open("rb") as file:
            os.fsync(file.fileno())
    for name in names:
        (shared / f".{name}").rename(shared / name)
    if is_durable:
        directory = os.open(shared, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)


class Handler(FileSystemEventHandler):
    """Passes new inputs to the processes."""

    def dispatch(self, event: FileSystemEvent) -> None:
        """Take a file that was written in place, or renamed into place."""
        path = Path(os.fsdecode(event.dest_path or event.src_path))
        if path.match("input*.json"):
            pool.submit(run, path)


pool = ProcessPoolExecutor(os.cpu_count())
for _ in range(os.cpu_count() or 1):  # starts the processes before there is a job
    pool.submit(os.getpid)
observer = Observer()
observer.schedule(Handler(), str(shared), event_filter=[FileClosedEvent, FileMovedEvent])
observer.start()
observer.join()
