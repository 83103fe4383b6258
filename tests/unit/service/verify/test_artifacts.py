"""Module and input are found by digest, whatever lies beside them."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.claims import content_of
from wasmdrop.proof.claim import Content
from wasmdrop.service.verify.artifacts import (
    Artifact,
    digest_of,
    find_input,
    find_module,
    is_tree_of,
    open_given,
    read_all,
)
from wasmdrop.service.verify.documents import DocumentDirectory
from wasmdrop.service.verify.verdict import DocumentError
from wasmdrop.unixfs.files import FileImporter
from wasmdrop.unixfs.profiles import PROFILES, Profile

DATA = b"\0asm module"
CLAIMED = content_of(DATA)
SHA256_ONLY = Content(CLAIMED.sha256)
LARGEST = 1000


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[DocumentDirectory, Path, Path]]:
    """Give the open directory of a document, its path, and an empty wasm directory."""
    beside, wasm = tmp_path / "slot", tmp_path / "wasm"
    beside.mkdir()
    wasm.mkdir()
    with DocumentDirectory(str(beside)) as directory:
        yield directory, beside, wasm


def path_found(opening: AbstractContextManager[Artifact]) -> str:
    """Return the path of the artifact, whose content must be the claimed one."""
    with opening as found:
        assert read_all(found, CLAIMED.sha256) == DATA
        assert digest_of(found).link().cid.text == CLAIMED.cid
        return found.path


def test_slots_own_files_are_found_in_a_directory_of_any_number_of_others(
    places: tuple[DocumentDirectory, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a module that `wasmdrop fetch` has named by its content id."""
    directory, beside, wasm = places
    monkeypatch.setattr("wasmdrop.service.verify.documents._MAX_NAMES", 3)
    monkeypatch.setattr("wasmdrop.service.verify.artifacts._MAX_READ_BYTES", 3 * len(DATA))
    for number in range(5):
        for place, ending in ((beside, "json"), (wasm, "wasm")):
            (place / f"{number}.{ending}").write_bytes(DATA[::-1])
    (beside / "input-x.json").write_bytes(DATA)
    opening = find_input(directory, "result-x", SHA256_ONLY, LARGEST)
    assert path_found(opening) == str(beside / "input-x.json")
    with (
        pytest.raises(DocumentError, match="more than 3 files"),
        find_input(directory, "result-y", SHA256_ONLY, LARGEST),
    ):
        pass
    (wasm / f"{CLAIMED.cid}.wasm").write_bytes(DATA)
    opening = find_module(
        directory, str(wasm), 8, Content(CLAIMED.sha256, cid=CLAIMED.cid), LARGEST
    )
    assert path_found(opening) == str(wasm / f"{CLAIMED.cid}.wasm")


@pytest.mark.parametrize("claimed", [CLAIMED, SHA256_ONLY])
def test_module_is_found_beside_the_document_and_in_the_wasm_directory(
    places: tuple[DocumentDirectory, Path, Path], claimed: Content
) -> None:
    """By its digest, under any name that ends in .wasm."""
    directory, beside, wasm = places
    for path in (
        beside / "any.wasm",
        wasm / "deep" / "er" / "any.wasm",
        wasm / "other.wasm",
        wasm / f"{CLAIMED.sha256}.wasm",
        beside / "module.wasm",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DATA)
        # Same size, same kind of name.
        path.with_name("a.wasm").write_bytes(DATA[::-1])
        opening = find_module(directory, str(wasm), 8, claimed, LARGEST)
        assert path_found(opening) == str(path)


def test_module_is_found_through_the_links_of_a_configmap_volume(
    places: tuple[DocumentDirectory, Path, Path],
) -> None:
    """As the daemon finds it."""
    directory, _beside, wasm = places
    (wasm / "..2026").mkdir()
    (wasm / "..2026" / "fib.wasm").write_bytes(DATA)
    (wasm / "..data").symlink_to("..2026")
    (wasm / "fib.wasm").symlink_to("..data/fib.wasm")
    opening = find_module(directory, str(wasm), 8, CLAIMED, LARGEST)
    assert path_found(opening) == str(wasm / "fib.wasm")


def test_module_is_not_found_behind_links_in_fifos_or_above_the_limits(
    places: tuple[DocumentDirectory, Path, Path],
) -> None:
    """Nothing blocks, and the error says how to give the file."""
    directory, beside, wasm = places
    outside = wasm.parent / "outside.wasm"
    outside.write_bytes(DATA)
    (beside / "link.wasm").symlink_to(outside)
    (wasm / "link.wasm").symlink_to(outside)
    for place in (beside, wasm):
        os.mkfifo(place / "fifo.wasm")
        (place / "directory.wasm").mkdir()
    (wasm / "a" / "b").mkdir(parents=True)
    (wasm / "a" / "b" / "deep.wasm").write_bytes(DATA)
    with (
        pytest.raises(DocumentError, match="--module FILE"),
        find_module(directory, str(wasm), 1, CLAIMED, LARGEST),
    ):
        pass
    opening = find_module(directory, str(wasm), 2, CLAIMED, LARGEST)
    assert path_found(opening) == str(wasm / "a" / "b" / "deep.wasm")
    with (
        pytest.raises(DocumentError),
        find_module(directory, str(wasm), 2, CLAIMED, len(DATA) - 1),
    ):
        pass


def test_input_is_found_beside_the_document_that_of_the_slot_first(
    places: tuple[DocumentDirectory, Path, Path],
) -> None:
    """Under any name that ends in .json."""
    directory, beside, _wasm = places
    for name in ("task-7.json", "input.json", "input-x.json"):
        (beside / name).write_bytes(DATA)
        opening = find_input(directory, "result-x", CLAIMED, LARGEST)
        assert path_found(opening) == str(beside / name)
    with (
        pytest.raises(DocumentError, match="--input FILE"),
        find_input(directory, "result-x", content_of(b"other"), LARGEST),
    ):
        pass


def test_given_file_must_be_a_regular_one_with_the_claimed_digest(tmp_path: Path) -> None:
    """Also behind a link, which the caller has named."""
    path = tmp_path / "any"
    path.write_bytes(DATA)
    (tmp_path / "link").symlink_to(path)
    for name in ("any", "link"):
        assert path_found(open_given(str(tmp_path / name), "input", CLAIMED, LARGEST))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "other").write_bytes(b"other")
    for name, words in (
        ("fifo", "a FIFO"),
        (".", "a directory"),
        ("none", "No such file"),
        ("other", "the input of the claim is"),
    ):
        with (
            pytest.raises(DocumentError, match=words),
            open_given(str(tmp_path / name), "input", CLAIMED, LARGEST),
        ):
            pass
    with pytest.raises(DocumentError, match="more than"), open_given(str(path), "x", CLAIMED, 3):
        pass


def test_input_that_its_owner_writes_to_meanwhile_is_refused(tmp_path: Path) -> None:
    """The bytes that are parsed are those whose digest is checked."""
    path = tmp_path / "input.json"
    path.write_bytes(DATA)
    with open_given(str(path), "input", CLAIMED, LARGEST) as found:
        assert read_all(found, CLAIMED.sha256) == DATA
        for changed in (DATA[::-1], DATA + DATA, b""):
            path.write_bytes(changed)
            with pytest.raises(DocumentError, match="changed while it was read"):
                read_all(found, CLAIMED.sha256)


def test_module_is_found_behind_many_others(
    places: tuple[DocumentDirectory, Path, Path],
) -> None:
    """A receipt does not give its size, so all are read."""
    directory, _beside, wasm = places
    for number in range(100):
        (wasm / f"{number:03}.wasm").write_bytes(b"another")
    (wasm / "fib.wasm").write_bytes(DATA)
    opening = find_module(directory, str(wasm), 8, SHA256_ONLY, LARGEST)
    assert path_found(opening) == str(wasm / "fib.wasm")


def test_module_behind_more_than_is_read_is_not_said_to_be_missing(
    places: tuple[DocumentDirectory, Path, Path],
) -> None:
    """The search has an end, and its message says why it came to it."""
    directory, _beside, wasm = places
    (wasm / "a-huge.wasm").touch()
    os.truncate(wasm / "a-huge.wasm", 1 << 40)
    (wasm / "fib.wasm").write_bytes(DATA)
    opening = find_module(directory, str(wasm), 8, SHA256_ONLY, 1 << 50)
    with pytest.raises(DocumentError, match=r"huge\.wasm: with it, more than"), opening:
        pass


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: str(profile.name))
def test_content_id_of_a_tree_is_recognized_by_each_profile(
    tmp_path: Path, profile: Profile
) -> None:
    """The input may name its module by any of them."""
    data = bytes(profile.chunk_bytes) + DATA
    importer = FileImporter(profile)
    importer.update(data)
    cid = importer.finish().cid
    path = tmp_path / "module.wasm"
    path.write_bytes(data)
    with open_given(str(path), "module", content_of(data), 1 << 22) as found:
        assert is_tree_of(found, cid)
    path.write_bytes(data[::-1])
    with open_given(str(path), "module", content_of(data[::-1]), 1 << 22) as found:
        assert not is_tree_of(found, cid)
