"""The processes of a daemon, as ps(1) and top(1) show them."""

import contextlib
import hashlib
from pathlib import Path

from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import with_fib
from tests.support.require import require_native_program
from tests.support.security.binaries import _nested_loops_with_exits
from wasmdrop.system.mount_table import MountTable

LOOP = '(module (func (export "run") (loop (br 0))))'


def shown(pid: int) -> str:
    """Return the command line of a process, whose start must be its name; nothing if it ended."""
    directory = Path(f"/proc/{pid}")
    try:
        name = directory.joinpath("comm").read_text().removesuffix("\n")
        line = directory.joinpath("cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # A process sets one after the other.
    return line.removesuffix("\0") if line[:15].removesuffix("\0") == name else ""


def test_each_process_shows_its_purpose(tmp_path: Path) -> None:
    """Jobs in both guests, a compilation, and the processes that are always there."""
    require_native_program()
    daemon = with_fib(
        tmp_path,
        WASMDROP_COMPILE_SEC="600",
        WASMDROP_DRAIN_SEC="0",
        WASMDROP_WORKERS="3",
    )
    with daemon.running():
        assert daemon.process is not None
        main = Path(f"/proc/{daemon.process.pid}")
        assert main.joinpath("comm").read_text() == "wasmdrop\n"
        assert main.joinpath("cmdline").read_text().endswith("\0-m\0wasmdrop\0serve\0")

        for n in range(3):
            daemon.submit("input-warm.json", {"entry": "fib", "args": [n]})
        drop(daemon.wasm / "loop.wasm", bytes(wat2wasm(LOOP)))
        drop(daemon.wasm / "slow.wasm", _nested_loops_with_exits(1000, 300_000))
        for module in ("loop", "slow"):
            drop(daemon.shared / f"input-{module}.json", {"module": module, "entry": "run"})
        drop(daemon.shared / "input.json", {"entry": "fib", "args": [60]})

        digest = hashlib.sha256((daemon.wasm / "module.wasm").read_bytes()).hexdigest()
        zygote = f"wasmdrop: zygote {digest[:12]}"
        mounts = MountTable()
        fork_server = "wasmdrop: fork server"
        expected = {
            fork_server: {""},
            f"wasmdrop: delivery worker {mounts.of(str(daemon.shared)).point}": {""},
            "wasmdrop: idle child": {fork_server},
            "wasmdrop: compiler": {fork_server},
            zygote: {fork_server},
            "wasmdrop: job": {fork_server, zygote},
        }
        mounts.close()
        wait_until(lambda: _parents_of_titles(daemon) == expected, "all titles")


def _parents_of_titles(daemon: Daemon) -> dict[str, set[str]]:
    """Return the titles of the parents of processes, by title; nothing for the daemon itself."""
    found: dict[str, set[str]] = {}
    for pid in daemon.children():
        title = shown(pid)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found.setdefault(title, set()).add(shown(int(fields[1])))
    return found
