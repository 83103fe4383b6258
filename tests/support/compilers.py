"""Modules of real compilers, for tests; continuous integration has every compiler."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.require import lack


def c_module(directory: Path, source: str, *options: str) -> bytes:
    """Compile C with wasi-libc to a reactor, unless ``options`` ask for a command."""
    model = () if any("exec-model" in option for option in options) else ("-mexec-model=reactor",)
    return _compiled(
        directory, "module.c", source, ("clang", "--target=wasm32-wasi", "-O2", *model, *options)
    )


def rust_module(directory: Path, source: str) -> bytes:
    """Compile Rust to a reactor that has WASI."""
    options = ("--target", "wasm32-wasi", "-O", "-C", "strip=symbols", "--crate-type", "cdylib")
    return _compiled(directory, "module.rs", source, ("rustc", *options))


def _compiled(directory: Path, name: str, source: str, command: tuple[str, ...]) -> bytes:
    """Return the module of the first compiler on PATH that has WebAssembly as a target."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(source)
    errors = []
    for compiler in _found(command[0]):
        done = subprocess.run(
            [compiler, *command[1:], "-o", "module.wasm", name],
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


def _found(name: str) -> Iterator[Path]:
    for directory in os.get_exec_path():
        path = Path(directory) / name
        if os.access(path, os.X_OK):
            yield path
