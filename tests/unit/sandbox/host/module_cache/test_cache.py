"""Unit tests of the module cache: what it refuses, what it keeps, what it evicts first."""

import asyncio
import errno
import hashlib
import os
import re
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.support.require import require, require_root
from wasmdrop.protocol.errors import RefusedError, SandboxError, StorageError
from wasmdrop.protocol.limits import MEBIBYTE, Limits
from wasmdrop.protocol.module_types import FunctionType, ModuleKind, ModuleSummary
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.host.call import Call
from wasmdrop.sandbox.host.compilation import CompileLimits
from wasmdrop.sandbox.host.executor import LocalExecutor
from wasmdrop.sandbox.host.fork_server import ForkServer
from wasmdrop.sandbox.host.job_directory import JobDirectoryFactory
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule, ModuleCache
from wasmdrop.sandbox.host.module_cache.lru import GRACE_SECONDS
from wasmdrop.sandbox.wire import EngineOptions

PLAIN = EngineOptions()
FUEL = EngineOptions(fuel=True)
SUMMARY = ModuleSummary(ModuleKind.LIBRARY, {"add": FunctionType(("i64", "i64"), ("i64",))})

#: A limit that no test exceeds by accident.
ROOMY = 64 * MEBIBYTE


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    def pass_grace(self) -> None:
        """Advance the clock past the grace period."""
        self.now += GRACE_SECONDS + 1


@pytest.fixture(autouse=True)
def _fresh_loggers() -> Iterator[None]:
    """Undo the logging configuration of earlier tests."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Give an empty state directory."""
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


def ingest(cache: ModuleCache, content: bytes, tmp: Path) -> str:
    """Add a module with this content."""
    source = tmp / "dropped.wasm"
    source.write_bytes(content)
    with source.open("rb") as file:
        return cache.ingest(file.fileno())


def compile_into(
    cache: ModuleCache, sha256: str, code: bytes, options: EngineOptions = PLAIN
) -> CompiledModule:
    """Add ``code`` as the output of a compiler."""
    work = cache.code_path(sha256, options).with_name(f".{sha256}-{options.token}")
    work.write_bytes(code)
    work.chmod(0o600)
    return cache.keep(sha256, options, SUMMARY, work)


def content_of(module: CompiledModule) -> bytes:
    """Return the machine code that a job would be given."""
    return os.pread(module.fd, MEBIBYTE, 0)


def refusals(logs: list[EventDict]) -> list[str]:
    """Return the reasons of refusals in the log."""
    return [str(event["reason"]) for event in logs if event["event"] == "cache-entry-refused"]


def files_below(directory: Path) -> set[str]:
    """Return the names of all files below a directory."""
    return {path.name for path in directory.rglob("*") if not path.is_dir()}


# Storage


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


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle, as a failing disk does."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(0o444)


def cut_short(path: Path) -> None:
    """Lose the last byte."""
    os.truncate(path, path.stat().st_size - 1)


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


# Eviction


def keep_all(cache: ModuleCache, clock: Clock, tmp: Path, count: int, size: int) -> list[str]:
    """Keep modules of ``size`` bytes, one after another; return their digests."""
    digests = []
    for number in range(count):
        digests.append(ingest(cache, bytes([number]) * size, tmp))
        clock.pass_grace()
    return digests


def test_eviction_takes_the_least_recently_used(state: Path, tmp_path: Path, clock: Clock) -> None:
    """A lookup is a use, the first copy is not."""
    cache = ModuleCache(state, 3500, clock)
    first, second, third = keep_all(cache, clock, tmp_path, 3, 1000)
    assert cache.has_module(first)
    clock.pass_grace()
    with capture_logs() as logs:
        fourth = ingest(cache, b"x" * 1000, tmp_path)
    assert [event["module"] for event in logs if event["event"] == "cache-evicted"] == [second]
    assert files_below(state) == {f"{sha256}.wasm" for sha256 in (first, third, fourth)}
    assert not cache.has_module(second)


def test_eviction_after_a_run_spares_the_module(state: Path, tmp_path: Path, clock: Clock) -> None:
    """Module and machine code are evicted together."""
    cache = ModuleCache(state, 10_000, clock)
    first, second = keep_all(cache, clock, tmp_path, 2, 1000)
    for sha256 in (first, second):
        compile_into(cache, sha256, b"c" * 2000)
        compile_into(cache, sha256, b"c" * 100, FUEL)
    clock.pass_grace()
    assert cache.at_hand(first, PLAIN) is not None
    clock.pass_grace()
    ingest(cache, b"x" * 4000, tmp_path)
    assert cache.at_hand(first, PLAIN) is not None
    assert not [name for name in files_below(state) if name.startswith(second)]
    assert cache.load(second, PLAIN) is None
    assert cache.load(second, FUEL) is None


def test_eviction_after_a_restart_keeps_the_order(
    state: Path, tmp_path: Path, clock: Clock
) -> None:
    """The time of a copy is that of its module's last use."""
    first, second, third = keep_all(ModuleCache(state, ROOMY, clock), clock, tmp_path, 3, 1000)
    for age, sha256 in enumerate((third, second, first)):
        os.utime(state / "modules" / f"{sha256}.wasm", (1e9 - age, 1e9 - age))
    assert ModuleCache(state, ROOMY, clock).has_module(first)
    ModuleCache(state, 2500, clock)
    assert files_below(state) == {f"{first}.wasm", f"{third}.wasm"}


def test_use_is_recorded_on_disk_once_an_hour(state: Path, tmp_path: Path, clock: Clock) -> None:
    """Not for each job."""
    cache = ModuleCache(state, ROOMY, clock)
    (sha256,) = keep_all(cache, clock, tmp_path, 1, 1000)
    path = cache.module_path(sha256)
    for seconds, is_noted in ((0, False), (3000, False), (600, True), (3000, False)):
        os.utime(path, (1e9, 1e9))
        clock.now += seconds
        assert cache.has_module(sha256)
        assert (path.stat().st_mtime != 1e9) is is_noted


def test_eviction_spares_modules_in_use(state: Path, tmp_path: Path, clock: Clock) -> None:
    """Held for a compiler or open in a job; afterwards they can be evicted."""
    cache = ModuleCache(state, 1, clock)
    compiling = ingest(cache, b"a" * 1000, tmp_path)
    with cache.held(compiling):
        clock.pass_grace()
        running = ingest(cache, b"b" * 1000, tmp_path)
        module = compile_into(cache, running, b"code")
        clock.pass_grace()
        ingest(cache, b"c", tmp_path)
        assert cache.has_module(compiling)
        assert cache.at_hand(running, PLAIN) is module
    clock.pass_grace()
    last = ingest(cache, b"d", tmp_path)
    assert not cache.has_module(compiling)
    assert cache.at_hand(running, PLAIN) is module
    del module
    clock.pass_grace()
    ingest(cache, b"e", tmp_path)
    assert cache.at_hand(running, PLAIN) is None
    assert not cache.has_module(running)
    assert not cache.has_module(last)


def test_eviction_closes_machine_code(state: Path, tmp_path: Path, clock: Clock) -> None:
    """Otherwise its space on the disk would not be free."""
    cache = ModuleCache(state, 1, clock)
    sha256 = ingest(cache, b"module", tmp_path)
    fd = compile_into(cache, sha256, b"code").fd
    clock.pass_grace()
    ingest(cache, b"other", tmp_path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_eviction_spares_a_recent_lookup(state: Path, tmp_path: Path, clock: Clock) -> None:
    """Its job is about to have it compiled."""
    cache = ModuleCache(state, 1, clock)
    old = ingest(cache, b"a" * 1000, tmp_path)
    clock.now += GRACE_SECONDS - 1
    new = ingest(cache, b"b" * 1000, tmp_path)
    assert cache.has_module(old)
    clock.pass_grace()
    assert cache.has_module(old)
    ingest(cache, b"c", tmp_path)
    assert cache.has_module(old)
    assert not cache.has_module(new)


def test_eviction_counts_machine_code(state: Path, tmp_path: Path, clock: Clock) -> None:
    """It is several times the size of its module."""
    cache = ModuleCache(state, 4000, clock)
    old, new = keep_all(cache, clock, tmp_path, 2, 1000)
    compile_into(cache, new, b"c" * 2500)
    assert not cache.has_module(old)
    assert cache.has_module(new)


def test_eviction_precedes_the_copy(state: Path, tmp_path: Path, clock: Clock) -> None:
    """The files never exceed the limit, if that is possible."""
    cache = ModuleCache(state, 2500, clock)
    keep_all(cache, clock, tmp_path, 2, 1000)
    with capture_logs() as logs, (tmp_path / "big").open("w+b") as file:
        file.write(b"x" * 2000)
        file.flush()
        cache.ingest(file.fileno())
    assert len([event for event in logs if event["event"] == "cache-evicted"]) == 2


def test_module_above_the_limit_serves_its_job(state: Path, tmp_path: Path, clock: Clock) -> None:
    """The next module evicts it."""
    cache = ModuleCache(state, 1000, clock)
    big = ingest(cache, b"x" * 5000, tmp_path)
    assert content_of(compile_into(cache, big, b"c" * 5000)) == b"c" * 5000
    assert cache.has_module(big)
    clock.pass_grace()
    ingest(cache, b"small", tmp_path)
    assert not cache.has_module(big)
    assert len(files_below(state)) == 1


def test_total_bytes_after_any_operation_is_exact(
    state: Path, tmp_path: Path, clock: Clock
) -> None:
    """After adding, replacing, refusing, removing and evicting."""

    def on_disk() -> int:
        return sum(path.stat().st_size for path in state.rglob("*") if path.is_file())

    cache = ModuleCache(state, ROOMY, clock)
    digests = keep_all(cache, clock, tmp_path, 5, 1000)
    for sha256 in digests:
        compile_into(cache, sha256, b"code" * 100)
        compile_into(cache, sha256, b"code" * 50)
        compile_into(cache, sha256, b"code", FUEL)
    assert cache._index.total_bytes == on_disk()
    cache.forget_code(digests[0], PLAIN)
    cache.forget_module(digests[1])
    cache._recent.clear()
    flip_a_bit(cache.code_path(digests[2], PLAIN))
    assert cache.load(digests[2], PLAIN) is None
    cut_short(cache.module_path(digests[3]))
    ingest(cache, bytes([3]) * 1000, tmp_path)
    assert cache._index.total_bytes == on_disk()
    again = ModuleCache(state, 4000, clock)
    assert again._index.total_bytes == on_disk() <= 4000


# What the executor makes of it

#: ``(module (func (export "add") (param i64 i64) (result i64) local.get 0 local.get 1 i64.add))``
ADD = bytes.fromhex(
    "0061736d0100000001070160027e7e017e030201000707010361646400000a09010700200020017c0b"
)


class Rig:
    """A cache with an executor on it."""

    def __init__(self, cache: ModuleCache, executor: LocalExecutor, tmp: Path) -> None:
        self.cache = cache
        self.executor = executor
        self.tmp = tmp

    def ingest(self, content: bytes = ADD) -> str:
        """Have the cache keep a module."""
        return ingest(self.cache, content, self.tmp)

    async def add(self, sha256: str) -> tuple[object, ...] | None:
        """Compile the module and return what it makes of 5 and 7."""
        module = await self.executor.compile(sha256, PLAIN)
        call = Call("add", module.summary.functions["add"], (5, 7))
        return (await self.executor.run(module, call, Limits())).results


def with_executor(state: Path, tmp: Path, test: Callable[[Rig], Awaitable[None]]) -> None:
    """Run a test with real children."""

    async def run() -> None:
        async with ForkServer(1) as pool:
            cache = ModuleCache(state, ROOMY)
            directories = JobDirectoryFactory(state, for_another_user=False)
            executor = LocalExecutor(pool, cache, directories, CompileLimits())
            await test(Rig(cache, executor, tmp))

    asyncio.run(run())


def test_job_with_damaged_machine_code_compiles_again(state: Path, tmp_path: Path) -> None:
    """The job gets its result, and the next start an intact entry."""

    async def first(rig: Rig) -> None:
        assert await rig.add(rig.ingest()) == (12,)

    async def second(rig: Rig) -> None:
        sha256 = rig.ingest()
        flip_a_bit(rig.cache.code_path(sha256, PLAIN))
        with capture_logs() as logs:
            assert await rig.add(sha256) == (12,)
        assert len(refusals(logs)) == 1
        assert "module-compiled" in [event["event"] for event in logs]

    async def third(rig: Rig) -> None:
        with capture_logs() as logs:
            assert await rig.add(rig.ingest()) == (12,)
        assert not logs

    for part in (first, second, third):
        with_executor(state, tmp_path, part)


def test_job_whose_module_copy_is_gone_is_module_missing(state: Path, tmp_path: Path) -> None:
    """The message does not speak of the daemon's files."""

    async def test(rig: Rig) -> None:
        sha256 = rig.ingest()
        rig.cache.module_path(sha256).unlink()
        with pytest.raises(RefusedError, match=f"sha256:{sha256} is gone") as caught:
            await rig.executor.compile(sha256, PLAIN)
        assert caught.value.code is Code.MODULE_MISSING
        assert not rig.cache.has_module(sha256)
        assert await rig.add(rig.ingest()) == (12,)

    with_executor(state, tmp_path, test)


def test_compilation_with_failing_storage_is_retryable(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is the daemon's fault, so the attempt is repeated."""

    async def test(rig: Rig) -> None:
        sha256 = rig.ingest()
        with monkeypatch.context() as patch:
            patch.setattr(rig.cache, "keep", fail_as_full)
            with pytest.raises(SandboxError, match="No space left"):
                await rig.executor.compile(sha256, PLAIN)
        assert rig.cache.has_module(sha256)
        assert await rig.add(sha256) == (12,)

    def fail_as_full(*_args: object) -> CompiledModule:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with_executor(state, tmp_path, test)


def test_compilation_that_cannot_write_is_retryable(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults of the child and of the module are distinguished."""
    require(os.access("/dev/full", os.W_OK), "/dev/full")

    async def test(rig: Rig) -> None:
        sha256 = rig.ingest()
        open_file = os.open

        def open_full(path: Path, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_EXCL:
                open_file(path, flags, mode)
                path = Path("/dev/full")
            return open_file(path, flags & ~os.O_CREAT & ~os.O_EXCL, mode)

        with monkeypatch.context() as patch:
            patch.setattr("wasmdrop.sandbox.host.compilation.os.open", open_full)
            patch.setattr("wasmdrop.sandbox.host.compilation.os.fsync", lambda _fd: None)
            with pytest.raises(SandboxError, match=r"(?s)a compiling child failed.*No space left"):
                await rig.executor.compile(sha256, PLAIN)
        assert await rig.add(sha256) == (12,)

    with_executor(state, tmp_path, test)


def test_eviction_spares_a_module_being_compiled(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it waits for its turn."""

    async def test(rig: Rig) -> None:
        sha256 = rig.ingest()
        held: list[bool] = []
        keep = rig.cache.keep

        def look(*args: object) -> CompiledModule:
            held.append(sha256 not in list(rig.cache._index.surplus(1 << 40)))
            return keep(*args)  # type: ignore[arg-type] # passed on as they came

        monkeypatch.setattr(rig.cache, "keep", look)
        monkeypatch.setattr(rig.cache._index, "_clock", lambda: 1e12)
        await rig.executor.compile(sha256, PLAIN)
        assert held == [True]
        monkeypatch.setattr(rig.cache._index, "_clock", lambda: 2e12)
        assert list(rig.cache._index.surplus(1 << 40)) == [sha256]

    with_executor(state, tmp_path, test)
