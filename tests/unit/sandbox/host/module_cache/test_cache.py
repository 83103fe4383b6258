"""Unit tests of the module cache: what it keeps over a restart, and who may change it."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.module_cache import (
    FUEL,
    PLAIN,
    ROOMY,
    SUMMARY,
    compile_into,
    content_of,
    files_below,
    ingest,
)
from wasmdrop.protocol.errors import StorageError
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache


def test_module_after_a_restart_is_loaded(state: Path, tmp_path: Path) -> None:
    """Module, machine code and summary; nothing is compiled."""
    cache = ModuleCache(state, ROOMY)
    sha256 = ingest(cache, b"module", tmp_path)
    compile_into(cache, sha256, b"code")
    with capture_logs() as logs:
        again = ModuleCache(state, ROOMY)
        assert again.has_module(sha256)
        loaded = again.load(sha256, PLAIN)
    assert loaded is not None
    assert (content_of(loaded), loaded.summary) == (b"code", SUMMARY)
    assert again.at_hand(sha256, PLAIN) is loaded
    assert again.load(sha256, FUEL) is None
    assert not logs


def test_descriptor_of_machine_code_is_read_only(state: Path, tmp_path: Path) -> None:
    """Both of new and of loaded machine code."""
    cache = ModuleCache(state, ROOMY)
    sha256 = ingest(cache, b"module", tmp_path)
    kept = compile_into(cache, sha256, b"code")
    loaded = ModuleCache(state, ROOMY).load(sha256, PLAIN)
    assert loaded is not None
    for module in (kept, loaded):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(module.fd, b"evil")


def test_files_with_any_umask_are_not_writable_by_others(state: Path, tmp_path: Path) -> None:
    """Including the directories above them."""
    before = os.umask(0)
    try:
        cache = ModuleCache(state, ROOMY)
        compile_into(cache, ingest(cache, b"module", tmp_path), b"code")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in state.rglob("*")}
    assert len(modes) == 6
    assert not [path for path, mode in modes.items() if mode & 0o022]
    assert ModuleCache(state, ROOMY).load(hashlib.sha256(b"module").hexdigest(), PLAIN)


def test_module_that_changes_during_the_copy_is_refused(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy always has the digest in its name."""
    cache = ModuleCache(state, ROOMY)
    monkeypatch.setattr("wasmdrop.sandbox.host.module_cache.cache.sha256_of", lambda _fd: "0" * 64)
    with pytest.raises(StorageError, match="changed while it was read"):
        ingest(cache, b"module", tmp_path)
    assert not files_below(state)
    assert not cache.has_module("0" * 64)


def test_leftovers_of_a_killed_daemon_are_removed(state: Path, tmp_path: Path) -> None:
    """Incomplete copies, output of compilers and code of another engine; foreign files stay."""
    cache = ModuleCache(state, ROOMY)
    sha256 = ingest(cache, b"module", tmp_path)
    code = cache.code_path(sha256, PLAIN).parent
    (state / "modules" / ".wasmdrop-1-1").write_bytes(b"half")
    (code / ".wasmdrop-1-2").write_bytes(b"half")
    (code / f".{sha256}-plain").write_bytes(b"half")
    (state / "code" / "0123456789abcdef").mkdir()
    (state / "code" / "0123456789abcdef" / "old.cwasm").write_bytes(b"old")
    mine = {state / "code" / "my-program", state / "modules" / "notes.txt"}
    for path in mine:
        path.write_bytes(b"the operator's")
    ModuleCache(state, ROOMY)
    assert files_below(state) == {f"{sha256}.wasm", "my-program", "notes.txt"}


def test_machine_code_of_another_version_is_removed(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module stays; the old code would never be loaded again."""
    cache = ModuleCache(state, ROOMY)
    sha256 = ingest(cache, b"module", tmp_path)
    compile_into(cache, sha256, b"code")
    changes = {"_LAYOUT": 99, "version": lambda name: f"another {name}"}
    for name, value in changes.items():
        monkeypatch.setattr(f"wasmdrop.sandbox.host.module_cache.manifest.{name}", value)
        again = ModuleCache(state, ROOMY)
        assert again.has_module(sha256)
        assert again.load(sha256, PLAIN) is None
        assert files_below(state) == {f"{sha256}.wasm"}
        compile_into(again, sha256, b"code")
