"""One job as a simple script does it: compile, call, write the result, then a marker.

python one_job.py MODULE_DIR INPUT RESULT_STEM
"""

import json
import sys
from pathlib import Path

import wasmtime

modules, input_path, stem = (Path(word) for word in sys.argv[1:])
job = json.loads(input_path.read_text())

engine = wasmtime.Engine()
module = wasmtime.Module.from_file(engine, str(modules / f"{job['module']}.wasm"))
linker = wasmtime.Linker(engine)
linker.define_wasi()
store = wasmtime.Store(engine)
store.set_wasi(wasmtime.WasiConfig())
exports = linker.instantiate(store, module).exports(store)
for name in ("_initialize", job["entry"]):
    function = exports.get(name)
    if isinstance(function, wasmtime.Func):
        results = function(store, *(job["args"] if name == job["entry"] else ()))

# Renamed into place as in wasmdrop, but without any fsync: faster, and torn by a crash.
for suffix, content in ((".json", job | {"results": [results]}), (".done", {})):
    work = stem.with_name(f".{stem.name}{suffix}")
    work.write_text(json.dumps(content))
    work.replace(stem.with_name(stem.name + suffix))
