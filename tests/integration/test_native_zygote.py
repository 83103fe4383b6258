"""One native zygote without a daemon, and without confinement by limits and filters."""

import errno
import itertools
import resource
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import wait_until
from tests.support.native.process import NativeZygote
from tests.support.require import require_native_program
from tests.support.wasi_programs import FILES
from wasmdrop.sandbox.host.procfs import children_of
from wasmdrop.sandbox.native_wire import Result

_PAGE_BYTES: Final = 1 << 16


@pytest.fixture
def program() -> Path:
    """Give the path of the native program."""
    return require_native_program()


def test_child_that_cannot_be_handed_over_is_not_reported(program: Path) -> None:
    """The daemon would end a zygote that reports the end of an unknown child."""
    text = '(module (func (export "run")))'
    with NativeZygote(program, text) as zygote:
        pid = zygote.process.pid
        present = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
        free = (number for number in itertools.count() if number not in present)
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        third = next(itertools.islice(free, 2, None))
        # Enough for the link of a child, but not for its pidfd.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (third, limits[1]))
        zygote._control.send(b"fork 60")
        assert zygote._control.recv(128) == b"none %d" % errno.EMFILE
        wait_until(lambda: not children_of(pid), "the child to end")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert zygote.run("run").report.result is Result.RETURNED


@pytest.mark.parametrize("name", ["", "memory", "a\\00b"])
def test_memory_with_any_name_has_its_size_reported(program: Path, name: str) -> None:
    """A name may be empty, or have a NUL."""
    text = f'(module (memory (export "{name}") 3) (func (export "run")))'
    with NativeZygote(program, text) as zygote:
        assert zygote.run("run").report.memory_bytes == 3 * _PAGE_BYTES


def test_child_without_its_directory_does_not_run(program: Path, tmp_path: Path) -> None:
    """It may reach the directories of other jobs until it restricts itself to its own."""

    class Forgetful(NativeZygote):
        def _paths(self) -> list[Path]:
            return []

    text = f'(module {FILES} (func (export "_start")))'
    with NativeZygote(program, text, directory=tmp_path) as zygote:
        assert zygote.run("_start").report.result is Result.RETURNED
    with (
        Forgetful(program, text, directory=tmp_path) as zygote,
        pytest.raises((AssertionError, BrokenPipeError)),  # it ends before or after the request
    ):
        zygote.run("_start")
