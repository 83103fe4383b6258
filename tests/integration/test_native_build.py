"""The native program builds with each compiler and for each architecture, and is in the package."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.support.deploy.base import working_tree
from tests.support.native.build import ROOT, SOURCES, built
from tests.support.require import require_native_program, require_tools

PROGRAM: Final = "wasmdrop/sandbox/guest/native/zygote"
#: The files of the control page.
PAGE: Final = [
    str(path.relative_to(ROOT / "daemon"))
    for path in (ROOT / "daemon/wasmdrop/page/static").iterdir()
]
#: Architectures in the header of an executable (elf.h).
X86_64, AARCH64 = 62, 183

BUILD: Final = "from setuptools import build_meta; print(build_meta.build_{}({!r}))"


def machine_of(program: Path) -> int:
    """Return the architecture of an executable."""
    return int.from_bytes(program.read_bytes()[18:20], "little")


@pytest.mark.parametrize("compiler", ["gcc", "clang", "aarch64-linux-gnu-gcc"])
def test_program_builds_without_warnings(tmp_path: Path, compiler: str) -> None:
    """With -Wall, -Wextra and -Werror; for 64-bit ARM by a cross compiler."""
    program = built(tmp_path, compiler)
    expected = AARCH64 if compiler.startswith("aarch64") else X86_64
    assert machine_of(program) == expected


def test_program_is_hardened(tmp_path: Path) -> None:
    """Its address is random, its relocations are read-only, its stack is not executable."""
    require_tools("readelf")
    program = built(tmp_path, "cc")
    command = ["readelf", "--wide", "--file-header", "--program-headers", "--dynamic", "--symbols"]
    found = subprocess.run([*command, program], capture_output=True, check=True, text=True).stdout
    for part in ("DYN (Pos", "GNU_RELRO", "BIND_NOW", "__stack_chk_fail", "_chk@"):
        assert part in found, part
    (stack,) = [line for line in found.splitlines() if "GNU_STACK" in line]
    assert " RW " in stack


def test_program_of_the_development_setup_is_newer_than_its_sources() -> None:
    """Else the tests of the native guest would try an older program, or none."""
    program = require_native_program()
    newest = max(path.stat().st_mtime for path in SOURCES.glob("*.[ch]"))
    assert program.stat().st_mtime >= newest, "the sources have changed: make setup-dev"


# --- The package


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy of the sources, so that builds leave nothing in the real ones."""
    path = tmp_path_factory.mktemp("tree")
    working_tree(path)
    return path


def packed(tree: Path, kind: str, target: Path, **variables: str) -> tuple[Path, str]:
    """Return the distribution that a build makes, and what the build prints."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind, str(target))],
        cwd=tree,
        env=os.environ | variables,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1], done.stdout + done.stderr


def test_wheel_has_the_program_and_fits_one_platform(tree: Path, tmp_path: Path) -> None:
    """For any Python; without the C sources."""
    require_tools("cc")
    wheel, _printed = packed(tree, "wheel", tmp_path)
    assert "-py3-none-linux_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if "/native/" in name]
        assert names == [PROGRAM]
        assert archive.getinfo(PROGRAM).external_attr >> 16 & 0o111
        assert set(PAGE) <= set(archive.namelist())


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("false", "false failed with status 1"), ("/no/compiler", "no C compiler")],
)
def test_wheel_without_a_compiler_fits_any_platform(
    tree: Path, tmp_path: Path, compiler: str, reason: str
) -> None:
    """And has no program, not even the one of an earlier build. One line says so."""
    wheel, printed = packed(tree, "wheel", tmp_path, CC=compiler)
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "/native/" in name]
    (line,) = [line for line in printed.splitlines() if "Python guest" in line]
    assert reason in line


def test_source_distribution_has_the_sources_and_no_program(tree: Path, tmp_path: Path) -> None:
    """A wheel can be built from it."""
    packed(tree, "wheel", tmp_path)
    archive, _printed = packed(tree, "sdist", tmp_path)
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {str(path.relative_to(ROOT)) for path in SOURCES.glob("*.[ch]")} <= names
    assert {"setup.py", "pyproject.toml"} <= names
    assert f"daemon/{PROGRAM}" not in names
    assert {f"daemon/{name}" for name in PAGE} <= names
