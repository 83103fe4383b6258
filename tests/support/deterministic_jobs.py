"""Deterministic jobs of several toolchains, and the files that they deliver."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from wasmtime import wat2wasm

from tests.support.components import CLOCKS_AND_RANDOM, EVERYTHING
from tests.support.examples import EXAMPLES, PROGRAMS
from tests.support.require import require
from tests.support.wasi_programs import STREAM_PROGRAMS, STREAMS

BUILT: Final = EXAMPLES / "build"


class Case(NamedTuple):
    """A deterministic job."""

    module: Path | str
    """A built example, or the text of a module."""
    keys: dict[str, Any]
    code: str = "ok"


#: Imports its own module, so that CPython leaves a file with the time of the source in it.
SCRIPT: Final = {
    "main.py": """
import json, os, random, sys, time
import helper
facts = [time.time(), random.random(), id(helper) > 0, hash("x"), sorted(os.listdir("/"))]
os.makedirs("out/größe")
with open("out/facts.json", "w") as file:
    json.dump([facts, [list(os.stat(name)) for name in sorted(os.listdir("."))]], file)
print(helper.TEXT, file=sys.stderr)
""",
    "helper.py": "TEXT = 'helped'\n",
}

#: Links are not published; the message names some of them.
LEAVE_LINKS: Final = """
import os, sys
for number in (3, 8, 1, 7, 0, 5, 6, 2, 4):
    os.symlink("main.py", f"link{number}")
sys.exit(3)
"""

_WAT: Final = {
    "trap": '(func $inner (unreachable)) (func (export "run") (call $inner))',
    "endless": '(func (export "run") (loop (br 0)))',
    "grow": '(memory 1) (func (export "run") (result i32) (memory.grow (i32.const 65535)))',
    "unlinked": '(import "env" "missing" (func)) (func (export "run"))',
    "simd": '(func (export "run") (result v128) (v128.const i64x2 1 2))',
}


def _fib(suffix: str) -> Case:
    return Case(BUILT / f"fib-{suffix}.wasm", {"entry": "fib", "args": [12]})


CASES: Final = {
    "c": _fib("c"),
    "go": _fib("go"),
    "rust-command": Case(BUILT / "wordcount-rs.wasm", {"stdin": "one two\n"}),
    "c-exit": Case(BUILT / "wordcount-c.wasm", {"args": ["--no-such"]}, "exit"),
    "cpython": Case(PROGRAMS / "cpython.wasm", {"args": ["main.py"], "files": SCRIPT}),
    "cpython-traceback": Case(
        PROGRAMS / "cpython.wasm", {"args": ["main.py"], "files": {"main.py": "1 / 0"}}, "exit"
    ),
    "component": Case(CLOCKS_AND_RANDOM, {}),
    "component-trap": Case(EVERYTHING, {"entry": "trap"}, "trap"),
    "output-files": Case(PROGRAMS / "tree.wasm", {"args": [3]}),
    "trap": Case(_WAT["trap"], {}, "trap"),
    "fuel-limit": Case(_WAT["endless"], {"fuel": 100_000}, "fuel-limit"),
    "refused-growth": Case(_WAT["grow"], {"memory_mb": 16}),
    "output-limit": Case(STREAMS + STREAM_PROGRAMS["endless"], {"output_mb": 1}, "output-limit"),
    "invalid-args": Case(_WAT["trap"], {"args": [1]}, "invalid-args"),
    "entry-not-found": Case(_WAT["trap"], {"entry": "gone"}, "entry-not-found"),
    "unsupported-signature": Case(_WAT["simd"], {}, "unsupported-signature"),
    "left-out-files": Case(
        PROGRAMS / "cpython.wasm",
        {"args": ["main.py"], "files": {"main.py": LEAVE_LINKS}},
        "exit",
    ),
    "invalid-module": Case(BUILT.with_name("README.md"), {}, "invalid-module"),
    "link-error": Case(_WAT["unlinked"], {}, "link-error"),
    "limit-above-the-ceiling": Case(_WAT["trap"], {"memory_mb": 100_000}, "invalid-input"),
}


def module_bytes(case: Case) -> bytes:
    """Return the module of a case, if it was built."""
    if isinstance(case.module, str):
        is_whole = case.module.startswith("(component")
        return bytes(wat2wasm(case.module if is_whole else f"(module {case.module})"))
    require(case.module.exists(), f"{case.module.name}, which examples/ builds")
    return case.module.read_bytes()


def files_of(marker: Mapping[str, Any], stem: str) -> dict[str, tuple[str, str]]:
    """Return digest and content id of each result file, by its name without the slot's stem."""
    found = {
        file.removeprefix(stem): (entry["sha256"], entry["cid"])
        for file, entry in marker["files"].items()
    }
    output = marker["output"]
    return found | ({} if output is None else {".output": ("", output["cid"])})
