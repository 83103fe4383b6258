"""The content ids in a marker are those of ``wasmdrop cid``, also after a crash and a restart."""

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.commands import run, wait_for_state
from tests.support.daemon import Daemon, drop
from tests.support.wasi_programs import STREAM_PROGRAMS, STREAMS
from wasmdrop.unixfs.profiles import DEFAULT_PROFILE

#: More than the one block of a file whose content id is its digest in another alphabet.
LARGE: Final = DEFAULT_PROFILE.chunk_bytes + 1


def padded(module: bytes, size_bytes: int) -> bytes:
    """Return a module that a custom section makes larger."""
    content = b"\3pad" + bytes(size_bytes)
    size, encoded = len(content), bytearray()
    while size >= 0x80:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return module + b"\0" + bytes(encoded) + bytes([size]) + content


#: A function that makes the daemon give the job a directory, with the files of its input.
_OPEN: Final = """(import "wasi_snapshot_preview1" "path_open"
  (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))"""

#: Copies its standard input to its standard output.
CAT: Final = padded(bytes(wat2wasm(f"(module {_OPEN}{STREAMS}{STREAM_PROGRAMS['cat']})")), LARGE)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give a running daemon."""
    with Daemon(tmp_path, WASMDROP_MODULE_WAIT_SEC="600").running() as it:
        yield it


def cids(daemon: Daemon, *paths: Path) -> list[str]:
    """Return the content ids of files and directories."""
    done = run(daemon, "cid", *map(str, paths))
    assert done.returncode == 0, done.stderr
    return [line.split()[0] for line in done.stdout.splitlines()]


def job(reference: str, **keys: Any) -> bytes:
    """Return an input larger than a block, with large and small files."""
    text = "x" * LARGE
    large = base64.b64encode(text.encode()).decode()
    files = {"large": {"base64": large}, "deep/er/small": "y", "deep/copy": text}
    return json.dumps({"module": reference, "stdin": text, "files": files, **keys}).encode()


def check(daemon: Daemon, name: str, module: Path, content: bytes) -> dict[str, Any]:
    """Compare every content id of a job's marker with that of the file; return the marker."""
    marker = daemon.wait_for(name, content)
    assert marker["code"] == "ok", marker["message"]
    results = daemon.shared / name
    files = [results.parent / file for file in marker["files"]]
    output = daemon.result_path(name, ".output")
    given, *others = cids(daemon, daemon.shared / name, module, output, *files)
    assert marker["input"]["cid"] == given
    assert marker["module"]["cid"] == others.pop(0)
    assert marker["output"] == {"cid": others.pop(0)}
    assert [entry["cid"] for entry in marker["files"].values()] == others
    return marker


def test_cids_of_large_files_are_those_of_the_command(daemon: Daemon) -> None:
    """Of module, input, output, output files and their directory; for a module by digest, too.

    After a restart only the copy in the module cache tells the module's content id.
    """
    module = daemon.wasm / "cat.wasm"
    drop(module, CAT)
    drop(daemon.shared / "input.json", content := job("cat"))
    marker = check(daemon, "input.json", module, content)
    sizes = {name: entry["bytes"] for name, entry in marker["files"].items()}
    large = ("result.stdout", "result.output/large", "result.output/deep/copy")
    assert min(sizes[name] for name in large) == LARGE
    assert min(marker["input"]["bytes"], marker["module"]["bytes"]) > LARGE
    daemon.stop()
    daemon.start()
    by_digest = f"sha256:{hashlib.sha256(CAT).hexdigest()}"
    drop(daemon.shared / "input-b.json", content := job(by_digest))
    check(daemon, "input-b.json", module, content)


def test_cids_of_job_after_a_crash_are_those_of_the_command(daemon: Daemon) -> None:
    """The daemon was killed while the job waited for its module."""
    module = daemon.wasm / "late.wasm"
    drop(daemon.shared / "input.json", content := job("late"))
    wait_for_state(daemon, "input.json", "waiting")
    daemon.kill()
    daemon.start()
    drop(module, CAT)
    check(daemon, "input.json", module, content)


def test_cid_of_refused_input_is_that_of_the_command(tmp_path: Path) -> None:
    """It is too large to be read, but not to be identified."""
    with Daemon(tmp_path, WASMDROP_MAX_INPUT_MB="1").running() as daemon:
        drop(daemon.shared / "input.json", content := job("late"))
        marker = daemon.wait_for("input.json", content)
        assert marker["code"] == "invalid-input"
        assert [marker["input"]["cid"]] == cids(daemon, daemon.shared / "input.json")


def test_cid_of_large_file_that_is_no_module_is_that_of_the_command(daemon: Daemon) -> None:
    """The module cache keeps no copy of it."""
    module = daemon.wasm / "bad.wasm"
    drop(module, bytes(LARGE))
    marker = daemon.submit("input.json", {"module": "bad"})
    assert marker["code"] == "invalid-module"
    assert [marker["module"]["cid"]] == cids(daemon, module)
