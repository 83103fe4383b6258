"""The inventory of a job's directory: digests and content ids."""

import hashlib
from pathlib import Path

import pytest

from wasmdrop.system import untrusted_trees
from wasmdrop.system.untrusted_trees import inventory
from wasmdrop.unixfs.directories import tree_link
from wasmdrop.unixfs.files import FileImporter
from wasmdrop.unixfs.profiles import DEFAULT_PROFILE
from wasmdrop.unixfs.shards import NameCollisionError

LARGE = bytes(DEFAULT_PROFILE.chunk_bytes) + b"x"
FILES = {"a": b"", "b/large": LARGE, "b/c/small": b"small"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a directory with small and large files and an empty directory."""
    root = tmp_path / "tree"
    for path, data in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    (root / "empty").mkdir()
    return root


def test_inventory_has_the_cid_of_the_directory_as_it_is_published(tree: Path) -> None:
    """With empty directories, and without the entries that are left out."""
    links = {}
    for path, data in FILES.items():
        importer = FileImporter()
        importer.update(data)
        links[path] = importer.finish()
    expected = tree_link(links, ["empty"]).cid.text
    assert inventory(str(tree), 1 << 30).cid == expected
    (tree / "link").symlink_to("a")
    assert inventory(str(tree), 1 << 30).cid == expected
    (tree / "b" / "new").touch()
    assert inventory(str(tree), 1 << 30).cid != expected


def test_inventory_has_the_cid_of_each_file_whose_digest_does_not_tell_it(tree: Path) -> None:
    """Of files of more than one block."""
    found = {file.path: file for file in inventory(str(tree), 1 << 30).files}
    importer = FileImporter()
    importer.update(LARGE)
    cids = {path: file.cid for path, file in found.items()}
    assert cids == {"a": None, "b/large": importer.finish().cid.text, "b/c/small": None}
    assert found["b/large"].sha256 == hashlib.sha256(LARGE).hexdigest()
    assert found["b/large"].size_bytes == len(LARGE)


def test_inventory_of_directory_without_a_cid_has_the_files(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job can make thousands of names with one hash; it must not fail the daemon."""

    def collide(*_arguments: object) -> None:
        raise NameCollisionError("same hash")

    monkeypatch.setattr(untrusted_trees, "tree_link", collide)
    found = inventory(str(tree), 1 << 30)
    assert found.cid is None
    assert {file.path for file in found.files} == set(FILES)


def test_inventory_of_more_bytes_than_allowed_is_refused(tree: Path) -> None:
    """The message is part of a job's outcome, and of a verdict."""
    size_bytes = sum(len(content) for content in FILES.values())
    assert len(inventory(str(tree), size_bytes).files) == len(FILES)
    with pytest.raises(untrusted_trees.TreeLimitError) as caught:
        inventory(str(tree), size_bytes - 1)
    assert str(caught.value) == f"more than {size_bytes - 1} bytes of files"


def test_inventory_names_unpublished_entries_in_the_same_order_on_every_disk() -> None:
    """The message is part of a job's outcome, and the order of a directory differs."""
    entries = [f'"{name}" (a link)' for name in "cabgfed"]
    message = untrusted_trees._left_out_message(entries)
    assert message == untrusted_trees._left_out_message(entries[::-1])
    assert message.startswith('not published: "a" (a link), "b" (a link), ')
