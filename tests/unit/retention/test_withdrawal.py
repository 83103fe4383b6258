"""Moving inputs that are done: the version that ran moves, and any other file stays or returns."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from tests.support.require import require_root
from wasmdrop.intake.file_versions import pack, pack_unreadable, with_digest
from wasmdrop.intake.layout import RootedPath
from wasmdrop.protocol.slot import MAX_SLOT_NAME_BYTES, FileVersion, result_stem
from wasmdrop.retention import withdrawal
from wasmdrop.retention.withdrawal import DONE, FAILED, FinishedInput, InputDirectory, archive_name
from wasmdrop.system import libc

JOB: Final = "20260101T000000Z-0123456789"
NAME: Final = "input-a.json"
HIDDEN: Final = f".removing-{NAME}"
READY: Final = ".ready"
OTHER_USER: Final = 4001

real_rename = os.rename


def version_of(path: Path) -> bytes:
    """Return the version of a file as the journal stores it."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    return with_digest(pack(FileVersion.of(path.stat())), digest)


def an_input(directory: Path, archive: str | None = DONE, data: bytes = b"first") -> FinishedInput:
    """Write an input whose job is done."""
    path = directory / NAME
    path.write_bytes(data)
    return FinishedInput(str(path), JOB, version_of(path), archive)


def opened(directory: Path, ready_suffix: str = "") -> InputDirectory:
    """Open a directory with inputs."""
    return InputDirectory(RootedPath(str(directory), ""), ready_suffix)


def withdraw(directory: Path, one: FinishedInput, ready_suffix: str = "") -> bool:
    """Withdraw one input, durably."""
    with opened(directory, ready_suffix) as it:
        is_gone = it.withdraw(one)
        it.sync()
    return is_gone


def files(directory: Path) -> dict[str, bytes]:
    """Return the files below a directory with their content."""
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def at_rename(
    monkeypatch: pytest.MonkeyPatch, name: str, *, before: bool, act: Callable[[], object]
) -> None:
    """Have ``act`` called once, directly before or after ``name`` is renamed."""
    pending = [act]

    def rename(source: str, target: str, **fds: Any) -> None:
        if before and source == name and pending:
            pending.pop()()
        real_rename(source, target, **fds)
        if not before and source == name and pending:
            pending.pop()()

    monkeypatch.setattr(os, "rename", rename)


def replace(path: Path, data: bytes) -> None:
    """Replace a file as a producer does."""
    temporary = path.with_name(".new")
    temporary.write_bytes(data)
    temporary.replace(path)


@pytest.mark.parametrize("archive", [DONE, FAILED])
def test_withdraw_archived_input_moves_below_the_id_of_its_job(
    tmp_path: Path, archive: str
) -> None:
    """The name is none of an input."""
    assert withdraw(tmp_path, an_input(tmp_path, archive))
    assert files(tmp_path) == {f"{archive}/{JOB}-{NAME}": b"first"}
    assert result_stem(f"{JOB}-{NAME}") is None


def test_withdraw_removed_input_leaves_nothing(tmp_path: Path) -> None:
    """No archive is made."""
    assert withdraw(tmp_path, an_input(tmp_path, None))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("archive", [DONE, None])
@pytest.mark.parametrize("before", [True, False])
def test_withdraw_input_replaced_meanwhile_keeps_the_new_drop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: str | None, before: bool
) -> None:
    """Replaced before the rename, it comes back; after it, the old one moves as usual."""
    one = an_input(tmp_path, archive)
    at_rename(monkeypatch, NAME, before=before, act=lambda: replace(tmp_path / NAME, b"second"))
    assert withdraw(tmp_path, one) is not before
    found = files(tmp_path)
    assert found.pop(NAME) == b"second"
    is_archived = not before and archive is not None
    assert found == ({f"{DONE}/{JOB}-{NAME}": b"first"} if is_archived else {})


def test_withdraw_input_replaced_twice_keeps_the_last_drop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version in between was replaced before it was read, and is in the archive."""
    one = an_input(tmp_path)
    path = tmp_path / NAME

    def rename(source: str, target: str, **fds: Any) -> None:
        if source == NAME:
            replace(path, b"second")
        real_rename(source, target, **fds)
        if source == NAME:
            path.write_bytes(b"third")

    monkeypatch.setattr(os, "rename", rename)
    assert not withdraw(tmp_path, one)
    assert files(tmp_path) == {NAME: b"third", f"{DONE}/{JOB}-{NAME}": b"second"}


def test_withdraw_input_rewritten_within_one_tick_stays(tmp_path: Path) -> None:
    """Only its digest tells the versions apart."""
    one = an_input(tmp_path)
    path = tmp_path / NAME
    before = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not withdraw(tmp_path, one)
    assert files(tmp_path) == {NAME: b"other"}


def test_withdraw_input_open_for_writing_stays(tmp_path: Path) -> None:
    """Its producer may be about to write the next drop into it."""
    one = an_input(tmp_path)
    with (tmp_path / NAME).open("rb+"):
        assert not withdraw(tmp_path, one)
    assert files(tmp_path) == {NAME: b"first"}
    assert withdraw(tmp_path, one)


@pytest.mark.parametrize("kind", ["link", "directory", "FIFO"])
def test_withdraw_other_kind_of_file_stays(tmp_path: Path, kind: str) -> None:
    """Also if its status is that of the version that was taken."""
    path = tmp_path / NAME
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    before = path.lstat()
    taken = with_digest(pack(FileVersion.of(before)), hashlib.sha256().digest())
    assert not withdraw(tmp_path, FinishedInput(str(path), JOB, taken, None))
    assert path.lstat().st_ctime_ns == before.st_ctime_ns  # not renamed for a moment


def test_withdraw_input_that_could_not_be_read_stays(tmp_path: Path) -> None:
    """The daemon reads it when it becomes readable."""
    path = tmp_path / NAME
    path.write_bytes(b"secret")
    before = path.stat()
    taken = with_digest(pack_unreadable(before), hashlib.sha256().digest())
    assert not withdraw(tmp_path, FinishedInput(str(path), JOB, taken, None))
    assert path.stat().st_ctime_ns == before.st_ctime_ns


def test_withdraw_hard_link_moves_one_name(tmp_path: Path) -> None:
    """The other name may be an input, too."""
    one = an_input(tmp_path)
    (tmp_path / "other").hardlink_to(tmp_path / NAME)
    assert withdraw(tmp_path, one)
    assert files(tmp_path) == {"other": b"first", f"{DONE}/{JOB}-{NAME}": b"first"}


def test_withdraw_name_that_is_in_the_archive_replaces_nothing(tmp_path: Path) -> None:
    """Neither another file, nor a link to the same one, of which rename(2) does nothing."""
    one = an_input(tmp_path)
    archived = tmp_path / DONE / f"{JOB}-{NAME}"
    archived.parent.mkdir()
    archived.write_bytes(b"of a stranger")
    with pytest.raises(FileExistsError):
        withdraw(tmp_path, one)
    assert files(tmp_path) == {NAME: b"first", f"{DONE}/{archived.name}": b"of a stranger"}


@pytest.mark.parametrize("archive", [DONE, None])
def test_withdraw_takes_the_ready_file_along(tmp_path: Path, archive: str | None) -> None:
    """It would announce the next input while that is being written."""
    one = an_input(tmp_path, archive)
    (tmp_path / (NAME + READY)).touch()
    assert withdraw(tmp_path, one, READY)
    assert files(tmp_path).keys() == ({f"{DONE}/{JOB}-{NAME}"} if archive else set())


@pytest.mark.parametrize("archive", [DONE, None])
def test_withdraw_ready_file_replaced_meanwhile_stays_with_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: str | None
) -> None:
    """The producer has announced another version."""
    one = an_input(tmp_path, archive)
    ready = tmp_path / (NAME + READY)
    ready.touch()
    at_rename(monkeypatch, ready.name, before=True, act=lambda: replace(ready, b"new"))
    assert not withdraw(tmp_path, one, READY)
    assert files(tmp_path) == {NAME: b"first", ready.name: b"new"}


def test_withdraw_input_replaced_meanwhile_gets_its_ready_file_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the new version would never be read."""
    one = an_input(tmp_path)
    ready = tmp_path / (NAME + READY)
    ready.touch()
    at_rename(monkeypatch, NAME, before=True, act=lambda: replace(tmp_path / NAME, b"second"))
    assert not withdraw(tmp_path, one, READY)
    assert files(tmp_path) == {NAME: b"second", ready.name: b""}


@pytest.mark.parametrize("place", [HIDDEN, f"{DONE}/{JOB}-{NAME}", f"{FAILED}/{JOB}-{NAME}"])
@pytest.mark.parametrize("is_that_version", [True, False])
def test_recover_completes_or_undoes_a_move(
    tmp_path: Path, place: str, is_that_version: bool
) -> None:
    """A daemon died after the rename. An unread drop gets its name back."""
    one = an_input(tmp_path)
    if not is_that_version:
        replace(tmp_path / NAME, b"second")
    target = tmp_path / place
    target.parent.mkdir(exist_ok=True)
    (tmp_path / NAME).rename(target)
    with opened(tmp_path) as it:
        assert it.recover(one) is is_that_version
    if not is_that_version:
        assert files(tmp_path) == {NAME: b"second"}
    elif place == HIDDEN:
        assert files(tmp_path) == {}
    else:
        assert files(tmp_path) == {place: b"first"}


def test_recover_ready_file_gets_its_name_back(tmp_path: Path) -> None:
    """The input was not moved; both are withdrawn later."""
    one = an_input(tmp_path, None)
    (tmp_path / (HIDDEN + READY)).touch()
    with opened(tmp_path, READY) as it:
        assert not it.recover(one)
    assert files(tmp_path).keys() == {NAME, NAME + READY}
    assert withdraw(tmp_path, one, READY)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("is_moved", [True, False])
def test_recover_input_that_is_gone_takes_its_ready_file_along(
    tmp_path: Path, is_moved: bool
) -> None:
    """It would announce the next input while that is being written."""
    one = an_input(tmp_path, None)
    if is_moved:
        (tmp_path / NAME).rename(tmp_path / HIDDEN)
    else:
        (tmp_path / NAME).unlink()
    (tmp_path / (HIDDEN + READY)).touch()
    with opened(tmp_path, READY) as it:
        assert it.recover(one) is is_moved
    assert files(tmp_path) == {}


@pytest.mark.parametrize("is_announced", [True, False])
def test_recover_ready_file_of_a_later_drop_gets_its_name_back(
    tmp_path: Path, is_announced: bool
) -> None:
    """An older one would announce a drop that is being written."""
    one = an_input(tmp_path, None)
    replace(tmp_path / NAME, b"second")
    hidden = tmp_path / (HIDDEN + READY)
    hidden.touch()
    moment = (tmp_path / NAME).stat().st_mtime + (1 if is_announced else -1)
    os.utime(hidden, (moment, moment))
    with opened(tmp_path, READY) as it:
        assert not it.recover(one)
    assert files(tmp_path).keys() == ({NAME, NAME + READY} if is_announced else {NAME})


def test_recover_later_drop_stays(tmp_path: Path) -> None:
    """The file that was about to be removed goes."""
    one = an_input(tmp_path, None)
    (tmp_path / NAME).rename(tmp_path / HIDDEN)
    (tmp_path / NAME).write_bytes(b"second")
    with opened(tmp_path) as it:
        assert not it.recover(one)
    assert files(tmp_path) == {NAME: b"second"}


def test_withdraw_without_renameat2_puts_a_drop_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS does not have it."""

    def fail(*_args: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    one = an_input(tmp_path)
    at_rename(monkeypatch, NAME, before=True, act=lambda: replace(tmp_path / NAME, b"second"))
    monkeypatch.setattr(libc, "syscall", fail)
    archive = tmp_path / DONE
    archive.mkdir()
    # Without the call that opens the archive only if nothing is mounted there.
    monkeypatch.setattr("wasmdrop.retention.withdrawal._open_in", lambda *_args: _open(archive))
    assert not withdraw(tmp_path, one)
    assert files(tmp_path) == {NAME: b"second"}


def _open(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)


def test_archive_of_another_user_is_not_used(tmp_path: Path) -> None:
    """That user could remove or replace the inputs of others."""
    require_root()
    one = an_input(tmp_path)
    (tmp_path / DONE).mkdir()
    os.chown(tmp_path / DONE, OTHER_USER, OTHER_USER)
    with pytest.raises(PermissionError, match="expected a directory of user 0, found one of 4001"):
        withdraw(tmp_path, one)
    assert files(tmp_path) == {NAME: b"first"}


def test_archive_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """It may lead anywhere."""
    elsewhere = tmp_path / "elsewhere"
    slots = tmp_path / "slots"
    elsewhere.mkdir()
    slots.mkdir()
    one = an_input(slots)
    (slots / DONE).symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic links") as raised:
        withdraw(slots, one)
    assert raised.value.errno == errno.ELOOP
    assert files(elsewhere) == {}


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o755, 0o755), (0o1777, 0o1777), (0o2770, 0o2770), (0o1770, 0o750)]
)
def test_archive_has_owner_and_permissions_of_its_directory(
    tmp_path: Path, mode: int, expected: int
) -> None:
    """Its owner could remove the input before. The mark of directories to clean up is not set."""
    require_root()
    os.chown(tmp_path, OTHER_USER, OTHER_USER)
    tmp_path.chmod(mode)
    assert withdraw(tmp_path, an_input(tmp_path))
    status = (tmp_path / DONE).stat()
    assert (status.st_uid, status.st_gid) == (OTHER_USER, OTHER_USER)
    assert status.st_mode & 0o7777 == expected


def test_archive_name_of_the_longest_slot_fits() -> None:
    """The end of the name is left out; the id of the job tells inputs apart."""
    name = f"input-{'ä' * (MAX_SLOT_NAME_BYTES // 2)}.json"
    archived = archive_name(JOB, name)
    assert archived.startswith(f"{JOB}-input-ää")
    assert archived.endswith("ä.json")
    assert len(os.fsencode(archived)) <= 255


def test_withdraw_input_that_grows_while_it_is_read_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner can make it larger than any daemon can read, after its size was checked."""
    one = an_input(tmp_path)
    archived = tmp_path / DONE / archive_name(JOB, NAME)
    monkeypatch.setattr(withdrawal, "refuses_lease", lambda _fd: os.truncate(archived, 1 << 43))
    assert not withdraw(tmp_path, one)
    assert (tmp_path / NAME).stat().st_size == 1 << 43


def test_withdraw_input_of_another_user_enters_no_archive_that_was_opened_before(
    tmp_path: Path,
) -> None:
    """The owner of the archive could remove inputs of other users in it."""
    require_root()
    directory = tmp_path / "all"
    directory.mkdir()
    directory.chmod(0o1777)
    (directory / DONE).mkdir()
    os.chown(directory / DONE, OTHER_USER, OTHER_USER)
    own = an_input(directory)
    os.chown(own.path, OTHER_USER, OTHER_USER)
    own = msgspec.structs.replace(own, taken=version_of(Path(own.path)))
    other_path = directory / "input-b.json"
    other_path.write_bytes(b"other")
    os.chown(other_path, OTHER_USER + 1, OTHER_USER + 1)
    other = FinishedInput(str(other_path), JOB, version_of(other_path), DONE)
    with opened(directory, "") as it:
        assert it.withdraw(own)
        with pytest.raises(PermissionError, match="expected a directory of user"):
            it.withdraw(other)
    assert other_path.read_bytes() == b"other"
