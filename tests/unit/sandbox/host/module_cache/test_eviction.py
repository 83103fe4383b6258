"""Unit tests of the module cache: which modules it evicts, and when."""

import os
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
    files_below,
    flip_a_bit,
    ingest,
)
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.sandbox.host.module_cache.eviction import GRACE_SECONDS


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
