"""File access of a job with directories, for code that has already broken out of wasmtime.

It may do everything in its own directory, only read in granted ones, and nothing elsewhere.

Each attempt runs natively in a process that is confined like a child with a directory: by the fork
server, or by the functions of the native program. The allowed attempts must succeed, because
otherwise the failures of the others would prove nothing.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.support.guests import GUESTS
from tests.support.require import require
from tests.support.security.native_confinement import (
    NativeConfinement,
    build_library,
    preparation_of,
)
from tests.support.security.world import new_base
from wasmdrop.sandbox.confinement.confine import PROCESS_BYTES, Confinement

ROOT: Final = Path(__file__).parents[2]

_MEBIBYTE: Final = 1 << 20
_MEMORY_BYTES: Final = 320 * _MEBIBYTE
_CPU_SECONDS: Final = 5

#: With any descriptor, Python uses the system calls that the filter knows. All paths are absolute.
_ANY: Final = 0


def _write(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    os.write(fd, b"x")
    os.close(fd)


def _link_and_write(own: str, outside: str) -> None:
    os.symlink(outside, f"{own}/link", dir_fd=_ANY)
    _write(f"{own}/link/new")


def _mknod(own: str, _outside: str) -> None:
    os.mkfifo(f"{own}/fifo")


def _move_out(own: str, outside: str) -> None:
    _write(f"{own}/moved")
    _move(f"{own}/moved", f"{outside}/moved")


def _move_in(own: str, outside: str) -> None:
    _move(f"{outside}/kept", f"{own}/kept")


def _move(old: str, new: str) -> None:
    os.rename(old, new, src_dir_fd=_ANY, dst_dir_fd=_ANY)


def _link(old: str, new: str) -> None:
    os.link(old, new, src_dir_fd=_ANY, dst_dir_fd=_ANY)


#: Allowed in the job's own directory.
ALLOWED: Final[dict[str, Callable[[str, str], object]]] = {
    "writing": lambda own, _outside: _write(f"{own}/new"),
    "making a directory": lambda own, _outside: os.mkdir(f"{own}/new", dir_fd=_ANY),
    "listing": lambda own, _outside: os.listdir(own),
    "moving": lambda own, _outside: _move(f"{own}/given", f"{own}/other"),
    "removing": lambda own, _outside: os.unlink(f"{own}/given", dir_fd=_ANY),
    "truncating": lambda own, _outside: os.close(os.open(f"{own}/given", os.O_RDWR | os.O_TRUNC)),
    "linking within": lambda own, _outside: _link(f"{own}/given", f"{own}/other"),
}

#: Forbidden, in the job's own directory and elsewhere.
FORBIDDEN: Final[dict[str, Callable[[str, str], object]]] = {
    "writing outside": lambda _own, outside: _write(f"{outside}/new"),
    "writing outside through a link": _link_and_write,
    "writing outside by the parent": lambda own, _outside: _write(f"{own}/../../outside/new"),
    "writing for another job": lambda own, _outside: _write(f"{own}/../another/new"),
    "reading of another job": lambda own, _outside: Path(f"{own}/../another/given").read_bytes(),
    "listing the directories of jobs": lambda own, _outside: os.listdir(f"{own}/.."),
    "reading outside": lambda _own, outside: Path(f"{outside}/kept").read_bytes(),
    "listing outside": lambda _own, outside: os.listdir(outside),
    "truncating outside": lambda _own, outside: os.truncate(f"{outside}/kept", 0),
    "making a directory outside": lambda _own, outside: os.mkdir(f"{outside}/new", dir_fd=_ANY),
    "removing outside": lambda _own, outside: os.unlink(f"{outside}/kept", dir_fd=_ANY),
    "linking to a file outside": lambda own, outside: _link(f"{outside}/kept", f"{own}/kept"),
    "moving out": _move_out,
    "moving in": _move_in,
    "making a FIFO": _mknod,
    "changing a mode": lambda own, _outside: os.chmod(f"{own}/given", 0o500),
    "changing an owner": lambda own, _outside: os.chown(f"{own}/given", 0, 0),
    "running a program": lambda own, _outside: os.execv(f"{own}/given", ["given"]),  # noqa: S606 - tried
    "opening a socket": lambda _own, _outside: socket.socket(),
    "forking": lambda _own, _outside: os.fork(),
    "changing directory": lambda _own, outside: os.chdir(outside),
}


def _read_through_a_link(own: str, granted: str) -> None:
    os.symlink(f"{granted}/kept", f"{own}/link", dir_fd=_ANY)
    Path(f"{own}/link").read_bytes()


#: Allowed with a granted directory.
GRANTED: Final[dict[str, Callable[[str, str], object]]] = {
    "reading a granted file": lambda _own, granted: Path(f"{granted}/kept").read_bytes(),
    "reading deeper": lambda _own, granted: Path(f"{granted}/below/kept").read_bytes(),
    "reading through its own link": _read_through_a_link,
    "listing a granted directory": lambda _own, granted: os.listdir(granted),
    "writing its own file with a grant": lambda own, _granted: _write(f"{own}/new"),
}

#: Forbidden in a granted directory.
NOT_GRANTED: Final[dict[str, Callable[[str, str], object]]] = {
    "writing": lambda _own, granted: _write(f"{granted}/kept"),
    "writing deeper": lambda _own, granted: _write(f"{granted}/below/kept"),
    "making a file": lambda _own, granted: _write(f"{granted}/new"),
    "making a directory": lambda _own, granted: os.mkdir(f"{granted}/new", dir_fd=_ANY),
    "making a link": lambda own, granted: os.symlink(own, f"{granted}/new", dir_fd=_ANY),
    "making a FIFO": lambda _own, granted: os.mkfifo(f"{granted}/new"),
    "truncating": lambda _own, granted: os.truncate(f"{granted}/kept", 0),
    "emptying": lambda _own, granted: os.open(f"{granted}/kept", os.O_RDONLY | os.O_TRUNC),
    "appending": lambda _own, granted: os.open(f"{granted}/kept", os.O_WRONLY | os.O_APPEND),
    "removing": lambda _own, granted: os.unlink(f"{granted}/kept", dir_fd=_ANY),
    "removing a directory": lambda _own, granted: os.rmdir(f"{granted}/empty", dir_fd=_ANY),
    "renaming": lambda _own, granted: _move(f"{granted}/kept", f"{granted}/other"),
    "moving out": lambda own, granted: _move(f"{granted}/kept", f"{own}/kept"),
    "moving in": lambda own, granted: _move(f"{own}/given", f"{granted}/given"),
    "linking to it": lambda own, granted: _link(f"{granted}/kept", f"{own}/kept"),
    "linking into it": lambda own, granted: _link(f"{own}/given", f"{granted}/given"),
    "changing times": lambda _own, granted: os.utime(f"{granted}/kept"),
    "changing times of a directory": lambda _own, granted: os.utime(granted),
    "changing a mode": lambda _own, granted: os.chmod(f"{granted}/kept", 0o500),
    "changing an owner": lambda _own, granted: os.chown(f"{granted}/kept", 0, 0),
    "marking": lambda _own, granted: os.setxattr(f"{granted}/kept", "user.mark", b"x"),
    "running a program": lambda _own, granted: os.execv(f"{granted}/kept", ["kept"]),  # noqa: S606 - tried
    "following a link out": lambda _own, granted: Path(f"{granted}/out").read_bytes(),
    "reading beside it": lambda _own, granted: Path(f"{granted}/../outside/kept").read_bytes(),
    "listing the parent directory": lambda _own, granted: os.listdir(f"{granted}/.."),
}
ATTEMPTS: Final = (
    ALLOWED
    | FORBIDDEN
    | GRANTED
    | {f"granted: {name}": attempt for name, attempt in NOT_GRANTED.items()}
)


def main(base: str, library: str) -> None:
    """Make each attempt in a process and a directory of its own; print the results.

    ``library``: the native functions that confine; without it, the fork server's are used.
    """
    confinement = Confinement()
    confinement.prepare_fork_server()
    native = None
    if library:
        preparation = preparation_of(_MEMORY_BYTES, _MEBIBYTE, _MEBIBYTE)
        native = NativeConfinement(library, confinement, preparation)
    results = {
        name: _attempt(confinement, native, Path(base) / str(n), name)
        for n, name in enumerate(ATTEMPTS)
    }
    json.dump({"missing": confinement.missing, "results": results}, sys.stdout)


def _attempt(
    confinement: Confinement, native: NativeConfinement | None, base: Path, name: str
) -> str:
    jobs, outside, granted = base / "jobs", base / "outside", base / "granted"
    own, another, below = jobs / "own", jobs / "another", granted / "below"
    for directory in (base, jobs, own, another, outside, granted, below, granted / "empty"):
        directory.mkdir()
        directory.chmod(0o777)  # so that only the confinement can prevent an attempt
    files = [base / "code", own / "given", another / "given"]
    files += [directory / "kept" for directory in (outside, granted, below)]
    for file in files:
        file.write_text("#!/bin/true\n")
        file.chmod(0o777)
    (granted / "out").symlink_to("../outside/kept")
    foreign = (outside, granted, below, another)
    before = [_state(directory) for directory in foreign]
    pid = os.fork()
    if pid == 0:
        grant = None if name in ALLOWED | FORBIDDEN else granted
        try:
            _confine(confinement, native, own, grant)
            ATTEMPTS[name](str(own), str(grant or outside))
        except BaseException:  # noqa: BLE001 - the last frame of a process of its own
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if [_state(directory) for directory in foreign] != before:
        return "changed a foreign file"
    return str(os.waitstatus_to_exitcode(status))


def _state(directory: Path) -> list[object]:
    paths = sorted([directory, *directory.iterdir()])
    status = [(path.name, path.lstat()) for path in paths]
    return [
        (name, found.st_mode, found.st_uid, found.st_nlink, found.st_size, found.st_mtime_ns)
        for name, found in status
    ]


def _confine(
    confinement: Confinement, native: NativeConfinement | None, own: Path, grant: Path | None
) -> None:
    """Confine the calling process like a child with a directory, and maybe a grant."""
    confinement.detach_from_fork_server(os.getppid(), os.open(os.devnull, os.O_RDONLY))
    own_fd = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
    grants = [] if grant is None else [os.open(grant, os.O_PATH | os.O_DIRECTORY)]
    if native is not None:
        # The zygote closes its own descriptors.
        code_fd = os.open(own.parent.parent / "code", os.O_RDONLY)
        given = [os.open(own.parent, os.O_PATH | os.O_DIRECTORY), *map(os.dup, grants)]
        native.confine_zygote(code_fd, given)
        native.confine_child(_CPU_SECONDS, [own_fd, *grants])
        return
    confinement.confine(
        readable=[],
        directory=own_fd,
        grants=grants,
        cpu_seconds=_CPU_SECONDS,
        file_bytes=_MEBIBYTE,
        data_bytes=_MEMORY_BYTES + PROCESS_BYTES,
        threads=True,
    )
    confinement.confine_after_loading(has_directory=True, has_grants=bool(grants))


@pytest.fixture(scope="module", params=GUESTS)
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Return the results of all attempts."""
    library: Path | None = None
    if request.param == "native":
        library = build_library(tmp_path_factory.mktemp("native"))
        require(library, "a C compiler")
    with new_base() as base:
        program = (
            f"import sys; sys.path[:] = {[str(ROOT), *sys.path]!r}; "
            "from tests.security.test_directory import main; main(*sys.argv[1:])"
        )
        command = [sys.executable, "-I", "-c", program, base, str(library or "")]
        done = subprocess.run(command, env={}, capture_output=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    require(not found["missing"], f"a kernel that can confine: {found['missing']}")
    results: dict[str, str] = found["results"]
    return results


@pytest.mark.parametrize("name", ALLOWED)
def test_own_directory_allows(results: dict[str, str], name: str) -> None:
    """WASI programs need this."""
    assert results[name] == "0"


@pytest.mark.parametrize("name", GRANTED)
def test_granted_directory_allows(results: dict[str, str], name: str) -> None:
    """A grant is for reading."""
    assert results[name] == "0"


@pytest.mark.parametrize("name", NOT_GRANTED)
def test_granted_directory_forbids(results: dict[str, str], name: str) -> None:
    """The job gets an error or is killed, and no granted file has changed."""
    assert results[f"granted: {name}"] in {"1", "-31"}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_confinement_with_directory_forbids(results: dict[str, str], name: str) -> None:
    """The job gets an error or is killed, and no file outside has changed."""
    assert results[name] in {"1", "-31"}
