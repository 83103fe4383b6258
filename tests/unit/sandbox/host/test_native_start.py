"""Whether the native program works on this host, tried with a real fork server."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.support.require import require_native_program
from tests.support.security.bench import OtherForkServer
from wasmdrop.sandbox.guest.wasmtime_ffi import library_path
from wasmdrop.sandbox.host.native_start import why_unusable

#: A fork server that opens another program and another library.
MODULE = """
import os
from wasmdrop.sandbox.guest import fork_server

def main(*arguments):
    files = [os.open(path, os.O_RDONLY) for path in {paths!r}]
    fork_server.open_executables = lambda: files
    fork_server.main(*arguments)
"""


@pytest.fixture
def program() -> Path:
    """Give the path of the native program."""
    return require_native_program()


@pytest.fixture(autouse=True)
def _modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(tmp_path)


def reason(tmp_path: Path, *paths: Path | str) -> str:
    """Return why this program and this library do not work."""
    (tmp_path / "other_executables.py").write_text(MODULE.format(paths=list(map(str, paths))))

    async def tried() -> str:
        async with OtherForkServer(1, "other_executables") as fork_server:
            return await why_unusable(fork_server)

    return asyncio.run(tried())


def test_native_program_of_this_installation_works(program: Path, tmp_path: Path) -> None:
    """So that a reason in the other tests is not that of any program."""
    assert reason(tmp_path, program, library_path()) == ""


def test_program_that_cannot_be_executed_is_unusable(tmp_path: Path) -> None:
    """For instance one of another architecture."""
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    assert "Exec format error" in reason(tmp_path, program, library_path())


def test_program_that_ends_without_a_report_is_unusable(tmp_path: Path) -> None:
    """For instance because its C library is missing."""
    assert "with status 1" in reason(tmp_path, Path("/bin/false"), library_path())


@pytest.mark.parametrize("library", [os.devnull, __file__])
def test_library_that_cannot_be_loaded_makes_the_program_unusable(
    program: Path, tmp_path: Path, library: str
) -> None:
    """The reason is that of the loader."""
    assert "/proc/self/fd/" in reason(tmp_path, program, library)


def test_program_that_could_not_be_opened_is_unusable(tmp_path: Path) -> None:
    """The fork server goes on without it."""
    assert "can't be opened" in reason(tmp_path)
