"""Demonstrate wasmdrop: start the daemon on ``host/`` and drop the Fibonacci example.

Run it with ``make demo``. It prints each step, all of which a user can do by hand.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from wasmtime import wat2wasm

ROOT = Path(__file__).parent.parent
HOST = ROOT / "host"
EXAMPLE = ROOT / "examples" / "fib"
SECONDS = 60.0


def main() -> int:
    """Run the demonstration; return an exit status."""
    wasm, shared = HOST / "wasm", HOST / "shared"
    for stale in shared.glob("result.*"):
        stale.unlink()
    for path in (wasm / "module.wasm", shared / "input.json"):
        path.unlink(missing_ok=True)

    environment = os.environ | {
        "WASMDROP_WASM_DIR": str(wasm),
        "WASMDROP_SHARED_DIR": str(shared),
        "WASMDROP_STATE_DIR": str(HOST / "state"),
        "WASMDROP_LOG": "console",
    }
    say(f"wasmdrop serve, watching {wasm.relative_to(ROOT)} and {shared.relative_to(ROOT)}")
    command = [sys.executable, "-m", "wasmdrop", "serve"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None and daemon.stderr is not None  # noqa: S101, PT018
        # The demonstration ends also if something hangs.
        guard = threading.Timer(SECONDS, daemon.kill)
        guard.start()
        ready = threading.Event()
        log = threading.Thread(target=copy_log, args=(daemon.stderr, ready))
        log.start()
        try:
            ready.wait(SECONDS)
            say("the module is dropped: cp fib.wasm host/wasm/module.wasm")
            drop(wasm / "module.wasm", bytes(wat2wasm((EXAMPLE / "fib.wat").read_text())))
            say(f"the input is dropped: {(EXAMPLE / 'input.json').read_text().strip()}")
            drop(shared / "input.json", (EXAMPLE / "input.json").read_bytes())
            line = daemon.stdout.readline()
        finally:
            say("SIGTERM: the daemon stops")
            daemon.send_signal(signal.SIGTERM)
            status = daemon.wait()
            log.join()
            guard.cancel()

    say("the daemon's standard output")
    sys.stdout.write(line)
    for name in ("result.json", "result.txt", "result.done"):
        say(f"host/shared/{name}")
        sys.stdout.write((shared / name).read_text())
    marker = json.loads((shared / "result.done").read_text())
    say(f"exit status {status}; the job took {marker['seconds']['total'] * 1000:.1f} ms")
    right = json.loads(line)["results"] == [144]
    return 0 if right and status == 0 else 1


def copy_log(source: IO[str], ready: threading.Event) -> None:
    """Print the daemon's log, indented; set ``ready`` when the daemon is ready."""
    for line in source:
        sys.stdout.write(f"    {line}")
        if " ready " in line:
            ready.set()
    ready.set()


def drop(path: Path, content: bytes) -> None:
    """Drop a file safely: write it under a name that begins with a dot, then rename it."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(content)
    temporary.replace(path)


def say(text: str) -> None:
    """Print one step."""
    sys.stdout.write(f"\n\033[1m# {text}\033[0m\n" if sys.stdout.isatty() else f"\n# {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
