"""Daemons that run jobs in one guest: in the native program, or in Python.

With ``native`` every job that the native program may run does run there, and this is checked. The
other jobs, such as those of components, run in Python with either.
"""

import contextlib
import hashlib
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop
from tests.support.require import require_native_program

GUESTS: Final = ("native", "python")

_EAGER_DAEMON: Final = Path(__file__).with_name("eager_zygotes.py")

#: The process that forks the job's in the native guest, by the end of its name, of 15 bytes.
_NATIVE: Final = "zygot"

_PROBE: Final = '(module (func (export "run") (result i32) (i32.const 7)))'


def require_guest(guest: str) -> None:
    """Require the native program if it is to run jobs."""
    if guest == "native":
        require_native_program()


def use_guest(guest: str, daemon: Daemon) -> Path:
    """Let a daemon that is not running use a guest from its next start on.

    Return the file in which it records the processes of jobs that the native program may run.
    """
    require_guest(guest)
    daemon.environment["WASMDROP_GUEST"] = guest
    record = daemon.state.with_name("guests")
    if guest == "native":
        daemon.command = (sys.executable, str(_EAGER_DAEMON), str(record))
    return record


def runs_in_native(record: Path) -> dict[str, bool]:
    """Return the digest of each module, and whether all its jobs ran in the native program."""
    found: dict[str, bool] = {}
    lines = record.read_text().splitlines() if record.exists() else []
    for sha256, process in map(str.split, lines):
        found[sha256] = found.get(sha256, True) and process == _NATIVE
    return found


@contextlib.contextmanager
def running_in(guest: str, daemon: Daemon, *, unfit: Collection[str] = ()) -> Iterator[Daemon]:
    """Run a daemon with a guest for a block, and check afterwards which process ran each job.

    ``unfit``: names of modules whose jobs may run in Python, because the native guest can't prepare
    them, or because a test kills it.
    """
    record = use_guest(guest, daemon)
    if guest == "python":
        with daemon.running():
            yield daemon
        return
    with daemon.running():
        drop(daemon.wasm / "probe.wasm", bytes(wat2wasm(_PROBE)))
        daemon.submit("input-probe.json", {"module": "probe"})
        assert list(runs_in_native(record).values()) == [True]
        yield daemon
    names = {_sha256(path): path.stem for path in daemon.wasm.rglob("*.wasm")}
    in_python = {
        names.get(sha256, sha256)
        for sha256, is_native in runs_in_native(record).items()
        if not is_native
    }
    assert in_python <= set(unfit), in_python


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
