"""One job as a simple script does it: compile, call, write the result, then a marker.

python one_job.py MODULE_DIR INPUT RESULT_STEM
"""

import json
import sys
from pathlib import Path
from typing import Any

import wasmtime

modules, input_path, stem = (Path(word) for word in sys.argv[1:])
job = json.loads(input_path.read_text())

engine = wasmtime.Engine()
module = wasmtime.Module.from_file(engine, str(modules / f"{job['module']}.wasm"))
linker = wasmtime.Linker(engine)
linker.define_wasi()
store = wasmtime.Store(engine)
world = wasmtime.WasiConfig()
entry, args, suffixes = job.get("entry", "_start"), job.get("args", []), [".json", ".done"]
if entry == "_start":  # a WASI command
    world.argv, args = [job["module"], *args], []
    suffixes.insert(0, ".stdout")
    world.stdout_file = str(stem.with_name(f".{stem.name}.stdout"))
store.set_wasi(world)
exports: Any = linker.instantiate(store, module).exports(store)
if "_initialize" in exports:
    exports["_initialize"](store)
results = exports[entry](store, *args)

# Renamed into place as in wasmdrop, but without any fsync: faster, and torn by a crash.
stem.with_name(f".{stem.name}.json").write_text(json.dumps(job | {"results": [results]}))
stem.with_name(f".{stem.name}.done").write_text("{}")
for suffix in suffixes:
    stem.with_name(f".{stem.name}{suffix}").replace(stem.with_name(stem.name + suffix))
