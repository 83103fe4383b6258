"""Unit tests of the module cache: how many summaries it keeps in memory."""

from pathlib import Path

import pytest

from wasmdrop.protocol.module_types import FunctionType, ModuleKind, ModuleSummary
from wasmdrop.sandbox.host.module_cache import cache
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.sandbox.wire import EngineOptions

OPTIONS = EngineOptions()


def keep(kept: ModuleCache, directory: Path, sha256: str, summary: ModuleSummary) -> None:
    """Keep a module with this summary."""
    code = directory / "code-in-the-making"
    code.write_bytes(b"code")
    kept.keep(sha256, OPTIONS, summary, code)


def test_summaries_in_memory_are_bounded_by_their_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However few there are; an evicted one is read again."""
    monkeypatch.setattr(cache, "_MAX_IN_MEMORY_BYTES", 100_000)
    kept = ModuleCache(tmp_path, 1 << 30)
    names = {f"export-{number:04}": FunctionType() for number in range(1000)}
    summary = ModuleSummary(ModuleKind.LIBRARY, names)
    digests = [f"{number:064}" for number in range(8)]
    for sha256 in digests:
        keep(kept, tmp_path, sha256, summary)
    in_memory = [sha256 for sha256 in digests if kept.at_hand(sha256, OPTIONS) is not None]
    assert 1 <= len(in_memory) < len(digests)
    assert in_memory == digests[-len(in_memory) :]
    found = kept.load(digests[0], OPTIONS)
    assert found is not None
    assert found.summary == summary


def test_summary_above_the_limit_is_kept_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Otherwise each of its jobs would read it again."""
    monkeypatch.setattr(cache, "_MAX_IN_MEMORY_BYTES", 1)
    kept = ModuleCache(tmp_path, 1 << 30)
    for sha256 in ("1" * 64, "2" * 64):
        keep(kept, tmp_path, sha256, ModuleSummary(ModuleKind.LIBRARY))
        assert kept.at_hand(sha256, OPTIONS) is not None
    assert kept.at_hand("1" * 64, OPTIONS) is None
