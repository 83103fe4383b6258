"""Grants: directories that the operator lets jobs read, for jobs that ask for them."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.daemon import Daemon, drop, wait_until
from tests.support.doctor import Doctor, not_ok
from tests.support.fib import FIB
from tests.support.guests import running_in
from tests.support.wasi_programs import READER

#: Errors of WASI preview 1.
BADF: Final = 8
NOENT: Final = 44
NOTDIR: Final = 54
PERM: Final = 63

#: Errors by which the operating system or wasmtime refuses an operation.
REFUSED: Final = {2, PERM, 69, 76}


#: Numbers the jobs: the same bytes in one slot would find the marker of an earlier one.
_numbers: Final = itertools.count()


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory that is granted, with one beside it that is not."""
    base = tmp_path_factory.mktemp("granted")
    for path in (base, *base.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    granted = base / "books"
    (granted / "shelf").mkdir(parents=True)
    (granted / "title").write_text("a book")
    (granted / "shelf/title").write_text("another book")
    (base / "secret").write_text("not for guests")
    (granted / "out").symlink_to("../secret")
    (granted / "whole").symlink_to(base / "secret")
    (granted / "within").symlink_to("shelf/title")
    for path in (granted, granted / "shelf", granted / "title"):
        path.chmod(0o777)
    return granted


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory, books: Path) -> Iterator[Daemon]:
    """Give one running daemon with two grants, one of which does not exist."""
    base = tmp_path_factory.mktemp("grants")
    it = Daemon(base, WASMDROP_GRANTS=f"books={books},gone={base}/gone", WASMDROP_ATTEMPTS="1")
    for name, flags, rights in (("read", 0, 2), ("write", 0, 0x40), ("create", 1, 0x40)):
        text = READER.replace("FLAGS", str(flags)).replace("RIGHTS", str(rights))
        drop(it.wasm / f"{name}.wasm", bytes(wat2wasm(text)))
    drop(it.wasm / "fib.wasm", bytes(wat2wasm(FIB)))
    with running_in(guest, it):
        yield it


def run(daemon: Daemon, path: str, module: str = "read", **more: Any) -> dict[str, Any]:
    """Let a module open ``path``; return its result."""
    given = {"module": module, "stdin": path, "grants": ["books"]} | more
    given["id"] = str(next(_numbers))
    daemon.submit("input.json", given)
    result: dict[str, Any] = daemon.result("input.json")
    return result


@pytest.mark.parametrize(
    ("path", "text"),
    [("title", "a book"), ("shelf/title", "another book"), ("within", "another book")],
)
def test_grant_can_be_read(daemon: Daemon, path: str, text: str) -> None:
    """At every depth, and through links that stay inside."""
    result = run(daemon, path)
    assert (result["exit_code"], result["stdout"]) == (0, text)


@pytest.mark.parametrize("path", ["out", "whole", "../secret", "shelf/../../secret"])
def test_grant_does_not_lead_out_of_its_directory(daemon: Daemon, path: str) -> None:
    """Neither through a link, relative or absolute, nor through a path."""
    assert run(daemon, path)["exit_code"] in REFUSED


@pytest.mark.parametrize(("module", "path"), [("write", "title"), ("create", "new")])
def test_grant_can_not_be_written_to(daemon: Daemon, books: Path, module: str, path: str) -> None:
    """Whatever the modes of the files. The job's own directory is writable."""
    before = [(path, path.lstat()) for path in sorted(books.rglob("*"))]
    assert run(daemon, path, module)["exit_code"] in REFUSED
    for found, status in before:
        now = found.lstat()
        assert (now.st_mtime_ns, now.st_size) == (status.st_mtime_ns, status.st_size)
    assert [path for path, _ in before] == sorted(books.rglob("*"))


def test_job_that_asks_for_no_grant_gets_none(daemon: Daemon) -> None:
    """Also after jobs that did, in processes forked before."""
    assert run(daemon, "title")["exit_code"] == 0
    for _ in range(4):
        assert run(daemon, "title", grants=[])["exit_code"] == BADF


def test_processes_keep_no_descriptor_of_a_grant(daemon: Daemon, books: Path) -> None:
    """Neither the daemon, nor the fork server, nor idle children."""
    assert run(daemon, "title")["exit_code"] == 0
    assert daemon.process is not None

    def held() -> list[str]:
        assert daemon.process is not None
        links = []
        for pid in (daemon.process.pid, *daemon.children()):
            try:
                links += [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
            except FileNotFoundError:
                continue  # it has just ended
        assert links
        return [link for link in links if link.startswith(str(books))]

    wait_until(lambda: not held(), "the descriptors to be closed")


def test_grant_name_that_is_unknown_is_refused_with_the_known_names(daemon: Daemon) -> None:
    """A producer can't know them otherwise."""
    result = run(daemon, "title", grants=["books", "Books"])
    assert result["error"]["code"] == "invalid-input"
    message = '$.grants[1]: no grant of this daemon is named "Books"; there are books, gone'
    assert result["error"]["message"] == message


def test_grant_with_the_name_of_an_input_file_is_refused(daemon: Daemon) -> None:
    """The guest would see only one of the two."""
    result = run(daemon, "title", files={"books/title": "mine"})
    assert result["error"]["code"] == "invalid-input"
    assert "a grant of that name would hide it" in result["error"]["message"]


def test_grant_for_a_module_without_files_is_refused(daemon: Daemon) -> None:
    """The module would otherwise run as if it had asked for nothing."""
    result = run(daemon, "title", "fib", stdin=None, entry="fib", args=[1])
    assert result["error"]["code"] == "invalid-input"
    assert result["error"]["message"].startswith("$.grants: the module imports no function")


def test_grant_whose_directory_is_missing_is_the_daemons_fault(daemon: Daemon) -> None:
    """The message is for the operator."""
    result = run(daemon, "title", grants=["gone"])
    assert result["error"]["code"] == "internal"
    assert "the granted directory gone cannot be opened" in result["error"]["message"]


def test_grant_in_a_deterministic_job_with_files_can_be_read(daemon: Daemon) -> None:
    """The files of the job get their times before the right to set times is taken away."""
    result = run(daemon, "title", deterministic=True, files={"a": "b"})
    assert (result["exit_code"], result["stdout"]) == (0, "a book")


def test_doctor_checks_that_jobs_can_read_grants(tmp_path: Path) -> None:
    """Jobs may run as another user than the daemon."""
    doctor = Doctor(tmp_path)
    paths = {name: tmp_path / name for name in ("good", "closed", "holey", "gone", "file")}
    for name in ("good", "closed", "holey"):
        paths[name].mkdir()
        paths[name].chmod(0o755)
    paths["closed"].chmod(0)
    paths["file"].touch()
    for name in ("good", "holey"):
        (paths[name] / "data").touch()
        (paths[name] / "data").chmod(0o644)
    (paths["holey"] / "data").chmod(0)
    text = ",".join(f"{name}={path}" for name, path in paths.items())
    _status, found = doctor.examine(WASMDROP_GRANTS=text)
    assert not_ok(found) == {
        "grant closed": "problem",
        "grant holey": "warning",
        "grant gone": "problem",
        "grant file": "problem",
    }
    assert str(paths["holey"] / "data") in found["grant holey"]["found"]
    assert found["grant good"]["found"] == f"{paths['good']} can be read"
