"""Output files on their way from a worker: equal if honest, refused and removed if not."""

import asyncio
import contextlib
import os
import re
import stat
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fleet.output_bodies import (
    LIMIT_BYTES,
    entry,
    left_below,
    listing,
    new_directories,
    unpacked,
)
from tests.support.strategies import mutations
from wasmdrop.fleet.bodies.invalid_answers import Flaw, InvalidAnswerError
from wasmdrop.fleet.bodies.output_files import (
    MAX_LISTING_BYTES,
    encode_listing,
    read_contents,
    remove_output,
    unpack,
)
from wasmdrop.protocol.errors import SandboxError
from wasmdrop.protocol.limits import MAX_OUTPUT_ENTRIES
from wasmdrop.protocol.outcome import OutputTree
from wasmdrop.sandbox.host.job_directory import JobDirectoryFactory
from wasmdrop.system.untrusted_trees import inventory


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Give the path of the state directory of a daemon."""
    return tmp_path / "state"


@pytest.fixture
def directories(state: Path) -> JobDirectoryFactory:
    """Give the job directories of a daemon."""
    return new_directories(state)


@pytest.fixture
def produced(tmp_path: Path) -> Path:
    """Give a directory with output files, as a job leaves them."""
    root = tmp_path / "produced"
    (root / "a" / "b").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "top.txt").write_bytes(b"top")
    (root / "a" / "none").write_bytes(b"")
    (root / "a" / "b" / "large").write_bytes(os.urandom(300_000))
    (root / "a" / "ünï 1").write_bytes(b"\0" * 70)
    return root


def alike(tree: OutputTree) -> tuple[Any, ...]:
    """Return what two trees have in common that are published alike."""
    files = sorted(tree.files, key=lambda file: file.path)
    return files, sorted(tree.directories), tree.cid, tree.left_out


def unpack_tree(tree: OutputTree, directories: JobDirectoryFactory, piece_bytes: int) -> OutputTree:
    """Pack a tree and unpack it again."""
    contents = b"".join(read_contents(tree))
    return unpacked(directories, encode_listing(tree), contents, piece_bytes=piece_bytes)


@pytest.mark.parametrize("piece_bytes", [1, 700, 4096, 1 << 20])
def test_output_files_are_unpacked_as_they_were_packed(
    produced: Path, directories: JobDirectoryFactory, piece_bytes: int
) -> None:
    """With the same digests and content ids, however the body is cut."""
    if piece_bytes == 1:
        (produced / "a" / "b" / "large").write_bytes(b"less")
    tree = inventory(str(produced), LIMIT_BYTES)
    found = unpack_tree(tree, directories, piece_bytes)
    assert alike(found) == alike(tree)
    assert found.root != tree.root
    assert alike(inventory(found.root, LIMIT_BYTES)) == alike(tree)


def test_output_files_have_plain_permissions(
    produced: Path, directories: JobDirectoryFactory
) -> None:
    """The permissions of the worker's files do not matter."""
    (produced / "top.txt").chmod(0o4777)
    found = unpack_tree(inventory(str(produced), LIMIT_BYTES), directories, 4096)
    for path in Path(found.root).rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.lstat().st_mode) == expected
        assert path.is_dir() or path.lstat().st_nlink == 1


def test_entries_that_are_not_published_are_not_packed(
    produced: Path, directories: JobDirectoryFactory
) -> None:
    """Their names are in the message of the outcome already."""
    (produced / "link").symlink_to("/etc/passwd")
    os.mkfifo(produced / "fifo")
    tree = inventory(str(produced), LIMIT_BYTES)
    assert tree.left_out
    found = unpack_tree(tree, directories, 4096)
    assert alike(found) == alike(msgspec.structs.replace(tree, left_out=""))


def test_empty_tree_is_unpacked_as_an_empty_tree(
    tmp_path: Path, directories: JobDirectoryFactory
) -> None:
    """A job that left only a link has one; its marker has the content id of an empty directory."""
    (tmp_path / "produced").mkdir()
    tree = inventory(str(tmp_path / "produced"), LIMIT_BYTES)
    assert alike(unpack_tree(tree, directories, 4096)) == alike(tree)


@pytest.mark.parametrize("change", ["shorter", "longer", "other", "gone", "link"])
def test_file_that_changes_while_it_is_packed_is_an_error_of_the_worker(
    produced: Path, change: str
) -> None:
    """The worker finds it, not the daemon."""
    tree = inventory(str(produced), LIMIT_BYTES)
    changed = produced / "top.txt"
    match change:
        case "shorter":
            changed.write_bytes(b"to")
        case "longer":
            changed.write_bytes(b"top!")
        case "other":
            changed.write_bytes(b"pot")
        case "gone":
            changed.unlink()
        case "link":
            changed.rename(produced / "elsewhere")
            changed.symlink_to("elsewhere")
    with pytest.raises(SandboxError, match=r"output file"):
        list(read_contents(tree))


def test_packed_output_is_removed_with_its_directory(produced: Path) -> None:
    """A worker keeps nothing of a job."""
    remove_output(inventory(str(produced), LIMIT_BYTES))
    assert not produced.exists()


def refuse(
    state: Path,
    directories: JobDirectoryFactory,
    flaw: Flaw,
    reason: str,
    head: bytes,
    contents: bytes = b"",
) -> None:
    """Assert that a body is refused, why, and that nothing is left of it."""
    with pytest.raises(InvalidAnswerError, match=re.escape(reason)) as caught:
        unpacked(directories, head, contents)
    assert caught.value.flaw is flaw
    assert str(caught.value).isprintable()
    assert left_below(state) == []


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../a",
        "a/../../b",
        "/",
        "/etc/passwd",
        "a//b",
        "a/",
        "./a",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "\u202e",
        "x" * 256,
        "é" * 128,
        "d/" * 600 + "x",
    ],
)
def test_path_that_is_not_plain_is_refused(
    state: Path, directories: JobDirectoryFactory, path: str
) -> None:
    """As a file and as a directory, even if its own directories are listed."""
    above = [str(one) for one in Path(path).parents][::-1][1:] if "/" in path[1:] else []
    refuse(
        state, directories, Flaw.PATH, "an output file at", listing([entry(path)], ["d", *above])
    )
    refuse(state, directories, Flaw.PATH, "an output file at", listing([], ["d", *above, path]))


@pytest.mark.parametrize(
    ("files", "made", "reason"),
    [
        (["a", "a"], [], "two output files at"),
        (["a"], ["a"], "two output files at"),
        (["a", "a/b"], [], "its directory is not listed"),
        (["a/b"], [], "its directory is not listed"),
        ([], ["a/b"], "its directory is not listed"),
        ([], ["a/b", "a"], "its directory is not listed"),
        ([], ["a", "a"], "listed twice"),
        ([], ["/".join("d" * n) for n in range(1, 34)], "32 directories deep"),
        (["d/" * 33 + "f"], ["/".join("d" * n) for n in range(1, 33)], "32 directories deep"),
    ],
)
def test_paths_that_do_not_fit_each_other_are_refused(
    state: Path, directories: JobDirectoryFactory, files: list[str], made: list[str], reason: str
) -> None:
    """Two of the same, a file as a directory, a directory before its parent, one too deep."""
    refuse(state, directories, Flaw.PATH, reason, listing(map(entry, files), made))


def test_deepest_path_is_unpacked(directories: JobDirectoryFactory) -> None:
    """The limit is that of a local job."""
    made = ["/".join("d" * count) for count in range(1, 33)]
    found = unpacked(directories, listing([entry("d/" * 32 + "f", b"x")], made), b"x")
    assert len(found.directories) == 32
    assert [file.size_bytes for file in found.files] == [1]


@pytest.mark.parametrize(
    ("files", "contents", "reason"),
    [
        ([entry("a", b"x" * 5)], b"x" * 4, "do not add up"),
        ([entry("a", b"x" * 5)], b"x" * 6, "do not add up"),
        ([entry("a", size=-1), entry("b", size=5)], b"x" * 4, "negative size"),
        ([entry("a", size=1 << 62), entry("b", size=-(1 << 62))], b"", "negative size"),
        ([entry("a", size=(1 << 64) - 1)], b"x", "do not add up"),
        ([], b"x", "do not add up"),
        ([entry(str(n)) for n in range(MAX_OUTPUT_ENTRIES + 1)], b"", "the limit is 10000"),
        ([], b"x" * (LIMIT_BYTES + 1), "the limit is 1048576"),
    ],
)
def test_sizes_that_are_impossible_are_refused(
    state: Path, directories: JobDirectoryFactory, files: list[Any], contents: bytes, reason: str
) -> None:
    """Before a file is created."""
    refuse(state, directories, Flaw.SIZE, reason, listing(files), contents)


def test_entries_of_both_kinds_count_together(
    state: Path, directories: JobDirectoryFactory
) -> None:
    """As in a local job's directory."""
    half = MAX_OUTPUT_ENTRIES // 2 + 1
    head = listing(
        [entry(f"f{number}") for number in range(half)], [f"d{number}" for number in range(half)]
    )
    refuse(state, directories, Flaw.SIZE, "the limit is 10000", head)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xc1",
        b"\x91" * 1000,
        b"\x82" + b"\xff" * 30,
        msgspec.msgpack.encode({"files": [["a", 0, "0" * 63 + "\n"]], "directories": []}),
        msgspec.msgpack.encode({"files": [["a", 0, "0" * 64], "b"], "directories": []}),
        msgspec.msgpack.encode({"files": {}, "directories": []}),
        listing([[b"a", 0, "0" * 64]]),
        listing([], [["a"]]),
    ],
)
def test_listing_that_does_not_decode_is_refused(
    state: Path, directories: JobDirectoryFactory, head: bytes
) -> None:
    """Deep nesting, other types, nothing."""
    refuse(state, directories, Flaw.MALFORMED, "does not decode", head)


def test_listing_is_refused_for_its_size_before_it_is_fetched(
    directories: JobDirectoryFactory,
) -> None:
    """Not one byte is taken."""
    with pytest.raises(InvalidAnswerError, match="a list of output files of"):
        run_unpack([], MAX_LISTING_BYTES + 1, MAX_LISTING_BYTES + 1, directories)


def run_unpack(
    pieces: Iterable[bytes], size_bytes: int, listing_bytes: int, directories: JobDirectoryFactory
) -> None:
    """Unpack pieces with any announced sizes."""

    async def each() -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            yield piece

    async def run() -> None:
        async with contextlib.aclosing(each()) as given:
            await unpack(given, size_bytes, listing_bytes, LIMIT_BYTES, directories)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("listing_bytes", "size_bytes", "taken"),
    [(50, 40, 40), (1000, 1000, 60), (60, 1000, 60), (0, 0, 0), (30, 60, 60)],
)
def test_sizes_that_do_not_fit_the_body_are_refused(
    state: Path, directories: JobDirectoryFactory, listing_bytes: int, size_bytes: int, taken: int
) -> None:
    """A list that is longer than the body, a body that ends early."""
    head = listing([entry("a", b"x" * 5)]) + b"x" * 5
    with pytest.raises(InvalidAnswerError):
        run_unpack([head[:taken]], size_bytes, listing_bytes, directories)
    assert left_below(state) == []


def test_contents_that_do_not_match_their_digests_are_refused_and_removed(
    state: Path, directories: JobDirectoryFactory
) -> None:
    """The daemon's own code reads the files again."""
    head = listing([entry("a", b"sound"), entry("d/b", b"other")], ["d"])
    refuse(state, directories, Flaw.DIGEST, "do not match their list", head, b"soundOTHER")


def test_error_of_the_pieces_removes_what_was_written(
    state: Path, directories: JobDirectoryFactory
) -> None:
    """A chunk that is missing, or a fleet that is away."""
    head = listing([entry("a", b"sound")])

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield head + b"so"
        raise LookupError

    async def run() -> None:
        await unpack(pieces(), len(head) + 5, len(head), LIMIT_BYTES, directories)

    with pytest.raises(LookupError):
        asyncio.run(run())
    assert left_below(state) == []


def test_cancelled_unpacking_removes_what_was_written(
    state: Path, directories: JobDirectoryFactory
) -> None:
    """A daemon that stops leaves nothing, and closes no file that a thread still writes."""
    head = listing([entry("a", b"sound")])
    reached = asyncio.Event()

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield head + b"so"
        reached.set()
        await asyncio.Event().wait()

    async def run() -> None:
        sizes = (len(head) + 5, len(head), LIMIT_BYTES)
        unpacking = asyncio.create_task(unpack(pieces(), *sizes, directories))
        await reached.wait()
        assert left_below(state)
        unpacking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unpacking

    asyncio.run(run())
    assert left_below(state) == []


def test_full_disk_is_the_fault_of_the_daemon(
    state: Path, directories: JobDirectoryFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not of the worker, whose answer is taken again later."""

    def fail(_fd: int, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wasmdrop.fleet.bodies.output_files.write_all", fail)
    with pytest.raises(SandboxError, match=r"could not be written: .*No space left"):
        unpacked(directories, listing([entry("a", b"x")]), b"x")
    assert left_below(state) == []


_SOUND = listing([entry("a", b"123"), entry("d/b", b"4"), entry("d/c")], ["d", "d/e"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(head=mutations(_SOUND), contents=st.sampled_from([b"1234", b"", b"12345"]))
def test_mutated_listing_is_unpacked_or_refused(
    state: Path, directories: JobDirectoryFactory, head: bytes, contents: bytes
) -> None:
    """With one exception, and no other; nothing is left of what is refused."""
    before = left_below(state)
    try:
        found = unpacked(directories, head, contents)
    except InvalidAnswerError:
        assert left_below(state) == before
    else:
        remove_output(found)
