"""Modules of real compilers, for tests; continuous integration has every compiler."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.require import lack

#: Rust's name of WASI preview 1; before 1.78 it was wasm32-wasi.
WASIP1: Final = "wasm32-wasip1"


def c_module(directory: Path, source: str, *options: str) -> bytes:
    """Compile C with wasi-libc to a reactor, unless ``options`` ask for a command."""
    model = () if any("exec-model" in option for option in options) else ("-mexec-model=reactor",)
    return _compiled(
        directory, "module.c", source, ("clang", "--target=wasm32-wasi", "-O2", *model, *options)
    )


def rust_module(directory: Path, source: str) -> bytes:
    """Compile Rust to a reactor that has WASI."""
    options = ("--target", WASIP1, "-O", "-C", "strip=symbols", "--crate-type", "cdylib")
    return _compiled(directory, "module.rs", source, ("rustc", *options))


def _compiled(directory: Path, name: str, source: str, command: tuple[str, ...]) -> bytes:
    """Return the module of the first compiler on PATH that has WebAssembly as a target."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(source)
    errors = []
    for compiler in _found(command[0]):
        options = command[1:]
        if WASIP1 in options and not _knows_wasip1(compiler):
            options = tuple("wasm32-wasi" if one == WASIP1 else one for one in options)
        done = subprocess.run(
            [compiler, *options, "-o", "module.wasm", name],
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            break
        errors.append(done.stderr)
        # Any failure other than a missing target is a fault of the source.
        assert "wasm32-wasi" in done.stderr or "wasi-libc" in done.stderr, done.stderr
    else:
        lack(f"{command[0]} for WebAssembly: {errors}")
    return (directory / "module.wasm").read_bytes()


def _knows_wasip1(rustc: Path) -> bool:
    listed = subprocess.run(
        [rustc, "--print", "target-list"], capture_output=True, text=True, check=False
    )
    return WASIP1 in listed.stdout.split()


def _found(name: str) -> Iterator[Path]:
    for directory in os.get_exec_path():
        path = Path(directory) / name
        if os.access(path, os.X_OK):
            yield path
