"""Content ids of modules are right after a restart, and unknown without an intact copy."""

from pathlib import Path

import pytest

from tests.support.module_cache import ROOMY, flip_a_bit, ingest
from wasmdrop.sandbox.host.module_cache.cache import ModuleCache
from wasmdrop.sandbox.host.module_cache.cids import ModuleCids
from wasmdrop.unixfs.file_digest import FileDigest
from wasmdrop.unixfs.files import FileImporter
from wasmdrop.unixfs.profiles import DEFAULT_PROFILE

LARGE = b"module" * DEFAULT_PROFILE.chunk_bytes


def cid_of(data: bytes) -> str:
    """Return the CID of a file with this content."""
    importer = FileImporter()
    importer.update(data)
    return importer.finish().cid.text


@pytest.mark.parametrize("content", [b"module", LARGE], ids=["small", "large"])
def test_cid_of_copied_module_is_known_and_the_same_after_a_restart(
    state: Path, tmp_path: Path, content: bytes
) -> None:
    """Then it is computed from the copy."""
    cache = ModuleCache(state, ROOMY)
    sha256 = ingest(cache, content, tmp_path)
    assert cache.cids.known(sha256) == cid_of(content)
    cache.forget_module(sha256)
    assert cache.cids.of(sha256) == cid_of(content), "of a file that turned out to be no module"
    ingest(cache, content, tmp_path)
    again = ModuleCache(state, ROOMY)
    assert again.cids.known(sha256) is None
    assert again.cids.of(sha256) == cid_of(content)
    assert again.cids.known(sha256) == cid_of(content)


def test_cid_without_an_intact_copy_is_none(state: Path, tmp_path: Path) -> None:
    """A damaged copy must not give its own CID to the module."""
    sha256 = ingest(ModuleCache(state, ROOMY), b"module", tmp_path)
    cache = ModuleCache(state, ROOMY)
    flip_a_bit(cache.module_path(sha256))
    assert cache.cids.of(sha256) is None
    assert cache.cids.of("0" * 64) is None


def test_cids_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest one is among them."""
    monkeypatch.setattr("wasmdrop.sandbox.host.module_cache.cids._MAX_CIDS", 3)
    cids = ModuleCids(lambda _sha256: pytest.fail("nothing is read"))
    added = []
    for number in range(10):
        digest = FileDigest()
        digest.update(bytes([number]))
        cids.add(digest)
        added.append(digest.sha256)
        assert sum(cids.known(sha256) is not None for sha256 in added) <= 3
        assert cids.known(digest.sha256) is not None
