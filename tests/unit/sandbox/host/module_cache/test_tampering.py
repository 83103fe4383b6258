"""Unit tests of the module cache: directories and files that were changed are refused."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.module_cache import (
    FUEL,
    PLAIN,
    ROOMY,
    Clock,
    compile_into,
    content_of,
    cut_short,
    flip_a_bit,
    ingest,
    refusals,
)
from tests.support.require import require_root
from wasmdrop.protocol.errors import StorageError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache

# Tampering with directories


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o720, 0o777, 0o1777])
@pytest.mark.parametrize("name", [".", "modules", "code", "code/FINGERPRINT"])
def test_directory_writable_by_others_is_refused(state: Path, name: str, mode: int) -> None:
    """Whoever can rename files there could replace machine code."""
    code = ModuleCache(state, ROOMY).code_path("0" * 64, PLAIN).parent
    path = code if name == "code/FINGERPRINT" else state / name
    path.chmod(mode)
    with pytest.raises(StorageError, match=f"others may write to it .its mode is {mode:04o}"):
        ModuleCache(state, ROOMY)
    path.chmod(0o755)
    ModuleCache(state, ROOMY)


@pytest.mark.parametrize("name", [".", "modules", "code"])
def test_directory_of_another_user_is_refused(state: Path, name: str) -> None:
    """Its owner may write there whatever its mode is."""
    require_root()
    ModuleCache(state, ROOMY)
    os.chown(state / name, 12345, -1)
    with pytest.raises(StorageError, match="belongs to user 12345, not to user 0"):
        ModuleCache(state, ROOMY)


@pytest.mark.parametrize("name", ["modules", "code"])
def test_directory_that_is_a_symlink_is_refused(state: Path, tmp_path: Path, name: str) -> None:
    """The target of the link is not touched."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "0123456789abcdef").mkdir()
    (state / name).symlink_to(elsewhere)
    with pytest.raises(StorageError, match="not a directory"):
        ModuleCache(state, ROOMY)
    assert (elsewhere / "0123456789abcdef").is_dir()


def test_state_directory_missing_is_named(tmp_path: Path) -> None:
    """The service creates it, not the cache."""
    with pytest.raises(StorageError, match="missing: can't be examined: No such file"):
        ModuleCache(tmp_path / "missing", ROOMY)


# Tampering with entries

Tamper = Callable[[Path], None]


def make_empty(path: Path) -> None:
    """Lose everything, as a power cut can do."""
    os.truncate(path, 0)


def let_others_write(path: Path) -> None:
    """Give the group the right to write."""
    path.chmod(0o464)


def let_all_write(path: Path) -> None:
    """Give everybody the right to write."""
    path.chmod(0o446)


def give_away(path: Path) -> None:
    """Make it another user's."""
    require_root()
    os.chown(path, 12345, -1)


def link_elsewhere(path: Path) -> None:
    """Put a link in its place; what it points to has the right content."""
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)


def link_twice(path: Path) -> None:
    """Give it a second name."""
    path.with_name("second").hardlink_to(path)


def make_directory(path: Path) -> None:
    """Put a directory in its place, with something in it."""
    path.unlink()
    path.mkdir()
    (path / "something").write_bytes(b"")


def make_fifo(path: Path) -> None:
    """Put a FIFO in its place, which blocks a process that opens it."""
    path.unlink()
    os.mkfifo(path)


TAMPERINGS = [
    pytest.param(flip_a_bit, "digest|decode", id="flip_a_bit"),
    pytest.param(cut_short, "digest|decode", id="cut_short"),
    pytest.param(make_empty, "digest|decode", id="make_empty"),
    pytest.param(let_others_write, "its mode is 0464", id="let_others_write"),
    pytest.param(let_all_write, "its mode is 0446", id="let_all_write"),
    pytest.param(give_away, "belongs to user 12345", id="give_away"),
    pytest.param(link_elsewhere, "it is a link", id="link_elsewhere"),
    pytest.param(link_twice, "it has 2 names", id="link_twice"),
    pytest.param(make_directory, "not a regular file", id="make_directory"),
    pytest.param(make_fifo, "not a regular file", id="make_fifo"),
]


@pytest.mark.parametrize("suffix", [".cwasm", ".json"])
@pytest.mark.parametrize(("tamper", "reason"), TAMPERINGS)
def test_machine_code_that_was_changed_is_removed(
    state: Path, tmp_path: Path, tamper: Tamper, reason: str, suffix: str
) -> None:
    """Code and manifest alike; the log has the reason, and a compilation repairs it."""
    cache = ModuleCache(state, ROOMY)
    sha256 = ingest(cache, b"module", tmp_path)
    compile_into(cache, sha256, b"machine code")
    path = cache.code_path(sha256, PLAIN)
    tamper(path.with_suffix(suffix))
    with capture_logs() as logs:
        again = ModuleCache(state, ROOMY)
        assert again.load(sha256, PLAIN) is None
    assert [bool(re.search(reason, given)) for given in refusals(logs)] == [True], refusals(logs)
    assert not os.path.lexists(path)
    assert not os.path.lexists(path.with_suffix(".json"))
    assert content_of(compile_into(again, sha256, b"machine code")) == b"machine code"
    assert ModuleCache(state, ROOMY).load(sha256, PLAIN) is not None


@pytest.mark.parametrize("is_dropped_again", [False, True])
@pytest.mark.parametrize(("tamper", "reason"), TAMPERINGS)
def test_module_copy_that_was_changed_is_removed(
    state: Path, tmp_path: Path, tamper: Tamper, reason: str, is_dropped_again: bool
) -> None:
    """Whether a job asks for it by its digest or it is dropped again."""
    sha256 = ingest(ModuleCache(state, ROOMY), b"the module", tmp_path)
    again = ModuleCache(state, ROOMY)
    path = again.module_path(sha256)
    tamper(path)
    with capture_logs() as logs:
        if not is_dropped_again:
            with pytest.raises(FileNotFoundError):
                again.open_module(sha256)
            assert not os.path.lexists(path)
            assert not again.has_module(sha256)
        assert ingest(again, b"the module", tmp_path) == sha256
    assert [bool(re.search(reason, given)) for given in refusals(logs)] == [True], refusals(logs)
    assert again.has_module(sha256)
    fd = again.open_module(sha256)
    assert os.pread(fd, 100, 0) == b"the module"
    os.close(fd)


def test_machine_code_under_another_name_is_refused(state: Path, tmp_path: Path) -> None:
    """Both files are intact, but do not match their names."""
    cache = ModuleCache(state, ROOMY)
    ours, foreign = (ingest(cache, content, tmp_path) for content in (b"ours", b"foreign"))
    compile_into(cache, foreign, b"evil")
    compile_into(cache, foreign, b"evil", FUEL)
    for source, options in ((cache.code_path(foreign, PLAIN), FUEL),):
        source.rename(cache.code_path(ours, options))
        source.with_suffix(".json").rename(cache.code_path(ours, options).with_suffix(".json"))
    cache.code_path(foreign, FUEL).rename(cache.code_path(foreign, PLAIN))
    cache.code_path(foreign, FUEL).with_suffix(".json").rename(
        cache.code_path(foreign, PLAIN).with_suffix(".json")
    )
    again = ModuleCache(state, ROOMY)
    with capture_logs() as logs:
        assert again.load(ours, FUEL) is None
        assert again.load(foreign, PLAIN) is None
    assert refusals(logs) == ["its manifest is that of another module"] * 2


def test_manifest_with_another_summary_is_refused(state: Path, tmp_path: Path) -> None:
    """It decodes, but does not match its digest."""
    cache = ModuleCache(state, ROOMY)
    sha256 = ingest(cache, b"module", tmp_path)
    compile_into(cache, sha256, b"code")
    path = cache.code_path(sha256, PLAIN).with_suffix(".json")
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b'"add"', b'"sub"'))
    with capture_logs() as logs:
        assert ModuleCache(state, ROOMY).load(sha256, PLAIN) is None
    assert refusals(logs) == ["its manifest does not match its digest"]


def test_machine_code_without_its_pair_is_removed(state: Path, tmp_path: Path) -> None:
    """A power cut between the two writes leaves one file."""
    cache = ModuleCache(state, ROOMY)
    sha256 = ingest(cache, b"module", tmp_path)
    for gone, left in ((".cwasm", ".json"), (".json", ".cwasm")):
        compile_into(cache, sha256, b"code")
        path = cache.code_path(sha256, PLAIN)
        path.with_suffix(gone).unlink()
        assert ModuleCache(state, ROOMY).load(sha256, PLAIN) is None
        assert not path.with_suffix(left).exists()


def test_machine_code_replaced_later_is_not_used(state: Path, tmp_path: Path) -> None:
    """A job gets the open file that was checked."""
    sha256 = hashlib.sha256(b"module").hexdigest()
    cache = ModuleCache(state, ROOMY)
    ingest(cache, b"module", tmp_path)
    compile_into(cache, sha256, b"code")
    again = ModuleCache(state, ROOMY)
    loaded = again.load(sha256, PLAIN)
    other = tmp_path / "other"
    other.write_bytes(b"evil")
    other.replace(again.code_path(sha256, PLAIN))
    assert loaded is not None
    assert content_of(loaded) == b"code"
    assert again.load(sha256, PLAIN) is loaded


def test_file_that_did_not_change_is_hashed_once(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory it costs no I/O; otherwise it is opened, and read only if it changed."""
    cache = ModuleCache(state, ROOMY)
    sha256 = ingest(cache, b"module", tmp_path)
    compile_into(cache, sha256, b"code")
    hashed: list[int] = []

    def counted(fd: int) -> str:
        hashed.append(fd)
        return hashlib.sha256(os.pread(fd, MEBIBYTE, 0)).hexdigest()

    monkeypatch.setattr("wasmdrop.sandbox.host.module_cache.manifest.sha256_of", counted)
    again = ModuleCache(state, ROOMY)
    for _ in range(3):
        assert again.load(sha256, PLAIN) is not None
    assert len(hashed) == 1
    again._recent.clear()
    assert again.load(sha256, PLAIN) is not None
    assert len(hashed) == 1
    again._recent.clear()
    flip_a_bit(again.code_path(sha256, PLAIN))
    assert again.load(sha256, PLAIN) is None
    assert len(hashed) == 2


def test_module_dropped_often_is_hashed_once(
    state: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded time of its use does not count as a change."""
    cache = ModuleCache(state, ROOMY, clock)
    sha256 = ingest(cache, b"module", tmp_path)
    hashed: list[int] = []

    def counted(fd: int) -> str:
        hashed.append(fd)
        return sha256

    monkeypatch.setattr("wasmdrop.sandbox.host.module_cache.manifest.sha256_of", counted)
    for _ in range(3):
        clock.now += 4000
        assert cache.has_module(sha256)
        assert ingest(cache, b"module", tmp_path) == sha256
    assert len(hashed) == 1
