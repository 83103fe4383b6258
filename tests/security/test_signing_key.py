"""The signing key is in the daemon's memory, in no other process, and can't be read there."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.fib import GOOD, with_fib
from tests.support.guests import use_guest
from tests.support.keys import key_bytes, new_key
from tests.support.require import require_root, require_users
from tests.support.security import inspector
from tests.support.security.binaries import _nested_loops_with_exits
from tests.support.security.memory import found_in
from tests.support.users import DAEMON, as_user, shared_base

ENDLESS: Final = '(module (func (export "run") (loop br 0)))'

#: The key of the daemon with each guest.
KINDS: Final = {"native": "ed25519", "python": "secp256k1"}

#: Processor time after which a process does what it was started for, in ticks of the clock.
_BUSY_TICKS: Final = 20


def needles(key: Path, kind: str) -> dict[str, bytes]:
    """Return every form in which a key could be in memory, by name."""
    der = key_bytes(key, "DER")
    marker = {"ed25519": b"\x04\x22\x04\x20", "secp256k1": b"\x02\x01\x01\x04\x20"}[kind]
    raw = der.partition(marker)[2][:32]
    assert len(raw) == 32
    lines = key_bytes(key, "PEM").splitlines()
    return {
        "raw": raw,
        "raw, as a number": raw[::-1],
        "DER": der,
        "PEM": lines[1][:40],
        "hex": raw.hex().encode(),
    }


def name_of(pid: int) -> str:
    """Return the name of a process."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def busy_guests(daemon: Daemon) -> list[int]:
    """Return the children of the fork server, and below, that have used the processor."""
    others = {daemon.fork_server(), *daemon.delivery_workers()}
    return [pid for pid in daemon.children() if pid not in others and _ticks(pid) > _BUSY_TICKS]


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[11])


@pytest.fixture
def daemon(guest: str, tmp_path: Path) -> Iterator[Daemon]:
    """Give a daemon with a key that has run a job, runs another one and compiles a module."""
    require_root()
    endless = {"WASMDROP_COMPILE_SEC": "600", "TIMEOUT_SEC": "600", "WASMDROP_DRAIN_SEC": "0"}
    it = with_fib(tmp_path, **endless)
    it.environment["WASMDROP_SIGNING_KEY"] = str(new_key(tmp_path / "keys" / "k", KINDS[guest]))
    use_guest(guest, it)
    drop(it.wasm / "endless.wasm", bytes(wat2wasm(ENDLESS)))
    drop(it.wasm / "slow.wasm", _nested_loops_with_exits(1000, 300_000))
    with it.running():
        marker = it.submit("input.json", {**json.loads(GOOD), "deterministic": True})
        assert "result.receipt" in marker["files"]
        drop(it.shared / "input-endless.json", {"module": "endless"})
        drop(it.shared / "input-slow.json", {"module": "slow", "entry": "run", "args": [1]})
        yield it


def test_signing_key_is_in_the_memory_of_the_daemon_alone(daemon: Daemon, guest: str) -> None:
    """Not in the fork server, a zygote, a job's child, a compilation or the delivery worker."""
    assert daemon.process is not None
    secrets = needles(Path(daemon.environment["WASMDROP_SIGNING_KEY"]), KINDS[guest])
    wait_until(lambda: len(busy_guests(daemon)) > 1, "a job and a compilation to be at work")
    at_work = busy_guests(daemon)
    assert found_in(daemon.process.pid, secrets)
    names = []
    searched = set()
    for pid in daemon.children():
        # Idle children may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name, environ = name_of(pid), Path(f"/proc/{pid}/environ").read_bytes()
            assert found_in(pid, secrets) == set(), name
            assert b"WASMDROP" not in environ, name
            names.append(name)
            searched.add(pid)
    assert searched >= {daemon.fork_server(), *daemon.delivery_workers(), *at_work}
    if guest == "native":
        assert names.count("wasmdrop: zygot") == 1, names
        assert names.count("wasmdrop: job") > 1, names  # its child at work, and one that waits


def test_daemon_with_a_signing_key_can_not_be_inspected_by_its_user() -> None:
    """Neither read nor traced, and it dumps no core. Without a key all of this is possible."""
    require_users()
    results = {}
    with shared_base() as base:
        daemon = with_fib(base)
        daemon.state.mkdir()
        key = new_key(base / "keys" / "key.pem")
        for path in (daemon.shared, daemon.wasm, daemon.state, key.parent, key):
            os.chown(path, DAEMON, DAEMON)
        for variables in ({}, {"WASMDROP_SIGNING_KEY": str(key)}):
            limited = ("sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh")
            done = subprocess.run(
                [
                    *as_user(DAEMON),
                    *limited,
                    sys.executable,
                    inspector.__file__,
                    *daemon.command,
                ],
                env=daemon.environment | variables | {"WASMDROP_LOG": "json"},
                cwd=daemon.state,
                capture_output=True,
                text=True,
                check=True,
                timeout=120,
            )
            results[bool(variables)] = json.loads(done.stdout)
    attempts = ("open_memory", "list_memory", "read_at_once", "trace")
    assert results[False] == dict.fromkeys((*attempts, "dump_core"), "")
    assert set(results[True].values()) <= {"EPERM", "EACCES", "none"}
    assert results[True]["dump_core"] == "none"
