"""Demonstrate a fleet on one machine: a NATS server, two workers, a daemon, and 200 jobs.

Run it with ``make demo-fleet``. It kills a worker in the middle, and shows that every result is
there and right, and which worker ran it. The exit status is 0 only if that is so.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from wasmtime import wat2wasm

BIN = Path(sys.executable).parent
JOBS = 200
#: Results after which a worker is killed, while it runs others.
KILL_AFTER = 50
#: Jobs that a worker runs at a time.
SLOTS = 4
SECONDS = 120.0
DAEMON = "demo"
WORKERS = ("worker-a", "worker-b")

#: Waits for 100 ms, as a program does that waits for something, and computes a Fibonacci number.
MODULE = """
(module
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "fib") (param $n i64) (result i64) (local $a i64) (local $b i64) (local $next i64)
    (i32.store (i32.const 80) (i32.const 1))           ;; the monotonic clock
    (i64.store (i32.const 88) (i64.const 100000000))   ;; nanoseconds
    (if (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192))
      (then (unreachable)))
    (local.set $b (i64.const 1))
    (block $done
      (loop $again
        (br_if $done (i64.eqz (local.get $n)))
        (local.set $next (i64.add (local.get $a) (local.get $b)))
        (local.set $a (local.get $b))
        (local.set $b (local.get $next))
        (local.set $n (i64.sub (local.get $n) (i64.const 1)))
        (br $again)))
    (local.get $a)))
"""


def main() -> int:
    """Run the demonstration; return an exit status."""
    with tempfile.TemporaryDirectory(prefix="wasmdrop-fleet-") as name:
        try:
            return demonstrate(Path(name))
        except DemoError as error:
            sys.stdout.write(f"\nfailed: {error}\n")
            return 1


def demonstrate(base: Path) -> int:
    """Run the demonstration with files below ``base``; return an exit status."""
    shared = base / "shared"
    for directory in (shared, base / "wasm"):
        directory.mkdir()
    url = f"nats://127.0.0.1:{free_port()}"
    with ExitStack() as running:
        say(f"nats-server with JetStream, on {url}")
        start = partial(started, base)
        running.enter_context(start("nats-server", *nats_server(base, url)))
        wait_until(lambda: is_open(url), "nats-server", base)
        say(f"wasmdrop fleet init --daemon {DAEMON}: makes the streams")
        initialize(url)
        say(f"wasmdrop work: {' and '.join(WORKERS)}, {SLOTS} jobs at a time each")
        workers = [running.enter_context(start(name, *work(base, url, name))) for name in WORKERS]
        say("wasmdrop serve: the daemon, whose jobs run on these workers only")
        running.enter_context(start(DAEMON, *serve(base, url)))
        for name in (*WORKERS, DAEMON):
            wait_until(partial(has_logged, base, name, "ready"), name, base)

        say(f"the module and {JOBS} inputs are dropped, as files")
        drop(base / "wasm/fib.wasm", bytes(wat2wasm(MODULE)))
        began = time.monotonic()
        for number in range(JOBS):
            drop(shared / f"input-{number}.json", json.dumps(request(number)).encode())
        wait_until(lambda: len(markers(shared)) >= KILL_AFTER, "the first results", base)
        say(f"{len(markers(shared))} results are there: kill -9 {WORKERS[0]}")
        workers[0].kill()
        say("the leases of its jobs end after 10 s, then the other worker gets these jobs")
        wait_until(lambda: len(markers(shared)) == JOBS, "all results", base)
        seconds = time.monotonic() - began
        again = leased_again(base, WORKERS[1])
        say("everything stops")
    return report(shared, seconds, again)


def initialize(url: str) -> None:
    """Make the streams and consumers of the fleet. Raises ``DemoError``."""
    command = wasmdrop("fleet", "init", "--fleet", url, "--daemon", DAEMON)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(done.stderr or done.stdout)


def report(shared: Path, seconds: float, again: int) -> int:
    """Print who ran the jobs and whether all results are right; return an exit status."""
    right = 0
    ran: Counter[str] = Counter()
    for number, marker in markers(shared).items():
        result = json.loads((shared / f"result-{number}.json").read_text())
        right += marker["status"] == "succeeded" and result["results"] == [fibonacci(number)]
        ran[marker["worker"] or "the daemon's host"] += 1
    say("who ran the jobs, as their markers say")
    for name, count in sorted(ran.items()):
        sys.stdout.write(f"    {name:<20}{count:>5}\n")
    say("the outcome")
    sys.stdout.write(f"    {'jobs':<20}{JOBS:>5}\n")
    sys.stdout.write(f"    {'right results':<20}{right:>5}\n")
    sys.stdout.write(f"    {'leased again':<20}{again:>5}\n")
    sys.stdout.write(f"    {'seconds':<20}{seconds:>5.1f}\n")
    return 0 if right == JOBS and set(ran) == set(WORKERS) else 1


def request(number: int) -> dict[str, Any]:
    """Return the input of a job."""
    return {"module": "fib", "entry": "fib", "args": [number % 90]}


def fibonacci(number: int) -> int:
    """Return the result that the job of this number must have."""
    one, next_one = 0, 1
    for _ in range(number % 90):
        one, next_one = next_one, one + next_one
    return one


def markers(shared: Path) -> dict[int, dict[str, Any]]:
    """Return the markers by the number of their job."""
    return {
        int(path.stem.removeprefix("result-")): json.loads(path.read_text())
        for path in shared.glob("result-*.done")
    }


# --- The processes


def nats_server(base: Path, url: str) -> tuple[list[str], dict[str, str]]:
    """Return the command of a NATS server that accepts connections of this machine."""
    config = base / "server.conf"
    config.write_text(
        f'listen: "{url.removeprefix("nats://")}"\n'
        f'jetstream {{ store_dir: "{base / "jetstream"}", max_file_store: 8GB }}\n'
    )
    return [str(BIN / "nats-server"), "--config", str(config)], {}


def work(base: Path, url: str, name: str) -> tuple[list[str], dict[str, str]]:
    """Return the command of a worker."""
    return wasmdrop("work"), {
        "WASMDROP_FLEET": url,
        "WASMDROP_FLEET_NAME": name,
        "WASMDROP_STATE_DIR": str(base / f"{name}-state"),
        "WASMDROP_WORKERS": str(SLOTS),
        "WASMDROP_HTTP": "127.0.0.1:0",
    }


def serve(base: Path, url: str) -> tuple[list[str], dict[str, str]]:
    """Return the command of a daemon whose jobs only run on workers."""
    return wasmdrop("serve"), {
        "WASMDROP_FLEET": url,
        "WASMDROP_FLEET_NAME": DAEMON,
        "WASMDROP_FLEET_FALLBACK": "wait",
        "WASMDROP_WASM_DIR": str(base / "wasm"),
        "WASMDROP_SHARED_DIR": str(base / "shared"),
        "WASMDROP_STATE_DIR": str(base / "state"),
    }


def wasmdrop(*words: str) -> list[str]:
    """Return a command line of wasmdrop."""
    return [sys.executable, "-m", "wasmdrop", *words]


@contextmanager
def started(
    base: Path, name: str, command: list[str], variables: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process during the block, with its log in ``NAME.log``."""
    kept = {key: text for key, text in os.environ.items() if not key.startswith("WASMDROP_")}
    environment = kept | variables | {"WASMDROP_LOG": "json"}
    with (base / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def is_open(url: str) -> bool:
    """Return whether the server accepts connections."""
    host, port = url.removeprefix("nats://").split(":")
    try:
        socket.create_connection((host, int(port))).close()
    except OSError:
        return False
    return True


def events(base: Path, name: str) -> list[dict[str, Any]]:
    """Return the events in the log of a process, except for a line that is half written."""
    lines = (base / f"{name}.log").read_text().rpartition("\n")[0].splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def has_logged(base: Path, name: str, event: str) -> bool:
    """Return whether a process has logged an event."""
    return any(found["event"] == event for found in events(base, name))


def leased_again(base: Path, name: str) -> int:
    """Return how many jobs a worker got that had been leased before, from its metrics."""
    (listening,) = [one for one in events(base, name) if one["event"] == "http-listening"]
    with urllib.request.urlopen(f"http://{listening['address']}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = re.search(r"(?m)^wasmdrop_worker_redeliveries_total (\S+)$", text)
    return round(float(found[1])) if found else 0


def wait_until(is_true: Callable[[], bool], what: str, base: Path) -> None:
    """Wait for a condition. Raises ``DemoError`` with the ends of all logs."""
    end = time.monotonic() + SECONDS
    while not is_true():
        if time.monotonic() > end:
            logs = sorted(base.glob("*.log"))
            ends = [f"{path.name}:\n{path.read_text()[-1500:]}" for path in logs]
            raise DemoError("\n".join([f"waited {SECONDS:g} s for {what}", *ends]))
        time.sleep(0.02)


class DemoError(Exception):
    """The demonstration failed."""


def free_port() -> int:
    """Return a port of loopback that no process uses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


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
