"""Many jobs, a third of them hostile, on one daemon, and a check for leaks.

Run by hand: ``python -m tests.security.soak [JOBS]``. Prints processes, descriptors, files and
resident sizes after a warm-up and at the end; the exit status is 1 where something has grown or a
job ended in a code that is not its own.
"""

# ruff: noqa: T201 - printing is what it is for

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop
from tests.support.fib import FIB
from tests.support.security.binaries import WORK

_JOBS: Final = 10_000
#: Jobs that run at a time, each in its own slot.
_SLOTS: Final = 30
#: Jobs before the first measurement, so that it includes every allocation that happens once.
_WARM_UP: Final = 600
#: Memory that an allocator may keep, in MiB, without counting as growth.
_TOLERANCE_MB: Final = 4.0

_RUN: Final = '(func (export "run")'
_SHORT: Final = {"timeout_sec": 0.05}

#: Body of each hostile module, further keys of its input, and its code.
_HOSTILE: Final[dict[str, tuple[str, dict[str, Any], str]]] = {
    "trap": (f"{_RUN} unreachable)", {}, "trap"),
    "recursion": ('(func $f (export "run") (call $f))', {}, "trap"),
    "hunger": (f"(memory 4000) {_RUN})", {}, "memory-limit"),
    "touch": (
        f"(memory 256) {_RUN} (memory.fill (i32.const 0) (i32.const 1) (i32.const 16777216)))",
        {},
        "ok",
    ),
    "fuel": (f"{_RUN} (loop (br 0)))", {"fuel": 1000}, "fuel-limit"),
    "stranger": (f'(import "env" "f" (func)) {_RUN})', {}, "link-error"),
    "entry": (f"{_RUN})", {"entry": "none"}, "entry-not-found"),
    "arguments": (f"{_RUN})", {"args": [1, 2]}, "invalid-args"),
    "limits": (f"{_RUN})", {"memory_mb": 1_000_000}, "invalid-input"),
    "busy": (WORK["busy"][0], _SHORT, "timeout"),
    "sleep": (WORK["sleep"][0], _SHORT, "timeout"),
    "grow": (WORK["grow-without-end"][0], _SHORT, "timeout"),
    "write": (WORK["write-without-end"][0], {}, "output-limit"),
    "throw": (f"(tag $t) {_RUN} (throw $t))", {}, "trap"),
}


def _looks(daemon: Daemon) -> dict[str, float]:
    """Return every figure that must not grow."""
    assert daemon.process is not None
    pid = daemon.process.pid
    seen: dict[str, float] = {"processes": len(daemon.children())}
    looked_at = [("daemon", pid), ("fork server", daemon.fork_server())]
    looked_at += [("delivery", deliverer) for deliverer in daemon.delivery_workers()[:1]]
    for name, of in looked_at:
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{of}/status").read_text().splitlines()
        )
        seen[f"descriptors of the {name}"] = len(list(Path(f"/proc/{of}/fd").iterdir()))
        seen[f"threads of the {name}"] = int(fields["Threads"])
        seen[f"resident MiB of the {name}"] = round(int(fields["VmRSS"].split()[0]) / 1024, 2)
    files = [path for path in daemon.shared.rglob("*") if path.is_file()]
    seen["files in the shared directory"] = len(files)
    seen["files in the state directory"] = sum(path.is_file() for path in daemon.state.rglob("*"))
    sizes = [path.stat().st_size for path in daemon.state.rglob("*") if path.is_file()]
    seen["MiB of state"] = round(sum(sizes) / (1 << 20), 2)
    return seen


def _job(number: int) -> tuple[dict[str, Any], str]:
    if number % 3:
        return {"entry": "fib", "args": [number % 15], "id": str(number)}, "ok"
    name = list(_HOSTILE)[number // 3 % len(_HOSTILE)]
    _body, keys, code = _HOSTILE[name]
    return {"module": name, "entry": "run", "id": str(number)} | keys, code


def _round(daemon: Daemon, numbers: range, codes: Counter[str], wrong: list[str]) -> None:
    dropped = []
    for number in numbers:
        content, code = _job(number)
        name = f"input-{number % _SLOTS}.json"
        data = json.dumps(content).encode()
        drop(daemon.shared / name, data)
        dropped.append((name, data, code))
    for name, data, code in dropped:
        marker = daemon.wait_for(name, data)
        codes[marker["code"]] += 1
        if marker["code"] != code:
            wrong.append(f"{data.decode()}: {marker['code']} {marker['message'][:200]}")


def main(jobs: int) -> int:
    """Run this many jobs; return the exit status."""
    codes: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="wasmdrop-soak-") as directory:
        daemon = Daemon(Path(directory), WASMDROP_MEMORY_MB="16", WASMDROP_OUTPUT_MB="1")
        drop(daemon.wasm / "module.wasm", bytes(wat2wasm(FIB)))
        for name, (body, _keys, _code) in _HOSTILE.items():
            drop(daemon.wasm / f"{name}.wasm", bytes(wat2wasm(f"(module {body})")))
        with daemon.running():
            before: dict[str, float] = {}
            started = time.perf_counter()
            for first in range(0, jobs + _WARM_UP, _SLOTS):
                if first == _WARM_UP:
                    before = _looks(daemon)
                    started = time.perf_counter()
                _round(daemon, range(first, min(first + _SLOTS, jobs + _WARM_UP)), codes, wrong)
            seconds = time.perf_counter() - started
            after = _looks(daemon)
    grown = _report(before, after)
    print(f"{jobs} jobs in {seconds:.1f} s; with the warm-up: {dict(codes)}")
    print("\n".join(wrong[:20]))
    return 1 if wrong or grown else 0


def _report(before: dict[str, float], after: dict[str, float]) -> bool:
    grown = False
    for name, was in before.items():
        allowed = _TOLERANCE_MB if "MiB" in name else 0
        more = after[name] - was > allowed
        grown |= more and name != "MiB of state"
        print(f"{name:36} {was:10} {after[name]:10}{'  GROWN' if more else ''}")
    return grown


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else _JOBS))
