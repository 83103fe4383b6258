"""``wasmdrop inspect``: the description of a module, hostile ones included."""

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.support.commands import command, inspect, on_terminal
from tests.support.daemon import environment
from tests.support.fib import FIB

WASI: Final = """
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 3)
  (func (export "_start")))
"""
UNLINKABLE: Final = """
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "env" "log" (func (param i32 i64)))
  (import "wasi_snapshot_preview1" "table" (table 1 funcref))
  (memory (export "memory") 3)
  (func (export "_start"))
  (@producers (language "C11" "") (processed-by "clang" "21.1.0")))
"""
HOSTILE: Final = r"""
(module
  (import "\1b[2J" "[link=x]" (global i32))
  (func (export "\1b]0;owned\07[red]bold[/red]\0a\e2\80\ae"))
  (func (export ""))
  (func (export "two words") (param i32)))
"""


def shown(file: Path, status: int = 0) -> str:
    """Return its output on a terminal."""
    ended, text = on_terminal(command("inspect", str(file)), environment(COLUMNS="120"))
    assert ended == status
    return text


def module(directory: Path, text: str) -> Path:
    """Write a module given as text; return its path."""
    path = directory / "it.wasm"
    path.write_bytes(bytes(wat2wasm(text)))
    return path


def inspected(file: Path, **variables: str) -> dict[str, Any]:
    """Return its JSON output."""
    done = inspect(file, "--json", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_inspect_describes_a_module_in_plain_lines(tmp_path: Path) -> None:
    """One fact per line, for grep, and which imports the daemon provides."""
    file = module(tmp_path, WASI)
    data = file.read_bytes()
    done = inspect(file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"file {file}",
        f"bytes {len(data)}",
        f"sha256 {hashlib.sha256(data).hexdigest()}",
        "kind command: a WASI program, run by its _start",
        "memory 0.1875 MiB initially, of the 256 MiB that a job may have",
        "entry _start () -> ()",
        "export func _start () -> ()",
        "export memory memory",
        "import func wasi_snapshot_preview1 proc_exit (i32) -> () (provided)",
    ]


def test_inspect_of_a_module_that_cant_be_linked_ends_with_1(tmp_path: Path) -> None:
    """With what is missing, what made it, and in JSON the same message as on standard error."""
    file = module(tmp_path, UNLINKABLE)
    done = inspect(file)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "producers C11, clang 21.1.0" in lines
    assert lines[-3:] == [
        "import func wasi_snapshot_preview1 proc_exit (i32) -> () (provided)",
        "import func env log (i32, i64) -> () (not provided)",
        "import table wasi_snapshot_preview1 table 1 funcref (not provided)",
    ]
    assert done.stderr.startswith("wasmdrop: link-error: the module can't be linked: it is ")
    assert done.stderr.endswith(
        "\n  made with C11, clang 21.1.0"
        "\n  imports that are not provided (2):"
        "\n    env: log"
        "\n    wasi_snapshot_preview1: table (a table)\n"
    )
    done = inspect(file, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["link_error"].replace("\n", "\n  ") in done.stderr
    assert found["producers"] == ["C11", "clang 21.1.0"]
    done = inspect(file, "--template")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("wasmdrop: link-error: ")


def test_inspect_json_has_every_fact_and_exact_names(tmp_path: Path) -> None:
    """Only in ASCII, because it may end on a terminal."""
    file = module(tmp_path, HOSTILE)
    done = inspect(file, "--json")
    assert done.returncode == 1
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    found = json.loads(done.stdout)
    assert list(found["functions"]) == [
        "\x1b]0;owned\x07[red]bold[/red]\n\N{RIGHT-TO-LEFT OVERRIDE}",
        "",
        "two words",
    ]
    assert found["functions"]["two words"] == {"params": ["i32"], "results": []}
    assert found["imports"] == [
        {
            "module": "\x1b[2J",
            "name": "[link=x]",
            "kind": "global",
            "type": found["imports"][0]["type"],
            "provided": False,
        }
    ]
    assert found["kind"] == "library"
    assert (found["entry"], found["entry_error"]["code"]) == (None, "entry-not-found")


def test_inspect_of_hostile_names_escapes_them(tmp_path: Path) -> None:
    """Escape sequences, newlines and markup do nothing, and the end of each name can be seen."""
    file = module(tmp_path, HOSTILE)
    plain = inspect(file).stdout
    assert plain.isascii()
    assert plain.replace("\n", "").isprintable()
    assert r"export func \x1b]0;owned\x07[red]bold[/red]\n\u202e () -> ()" in plain.splitlines()
    assert 'export func "" () -> ()' in plain.splitlines()
    assert 'export func "two words" (i32) -> ()' in plain.splitlines()
    text = shown(file, status=1)
    assert r"\x1b]0;owned\x07[red]bold[/red]\n\u202e" in text
    assert r"\x1b[2J [link=x]" in text
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text


def test_inspect_on_a_terminal_prints_tables_in_colour(tmp_path: Path) -> None:
    """Facts, exports, imports."""
    text = shown(module(tmp_path, UNLINKABLE), status=1)
    assert "\x1b[1mentry    \x1b[0m  _start () -> ()" in text
    assert "\x1b[1mexports: 2\x1b[0m" in text
    assert "\x1b[32mprovided" in text
    assert "\x1b[33mnot provided" in text


def test_inspect_on_a_terminal_cuts_a_long_table(tmp_path: Path) -> None:
    """It shows the first hundred exports, and how many more there are."""
    names = "".join(f'(export "f{number}" (func 0))' for number in range(5000))
    file = module(tmp_path, f"(module (func) {names})")
    text = shown(file)
    assert "f99 " in text
    assert "f100 " not in text
    assert "and 4900 more; --json shows all" in text
    assert len(inspected(file)["functions"]) == 5000


@pytest.mark.parametrize(
    ("text", "variables", "entry"),
    [
        (FIB, {}, "none, entry-not-found: "),
        (FIB, {"ENTRY": "fib"}, "fib (i64) -> (i64)"),
        ('(module (func (export "run")) (func (export "_start")))', {}, "run () -> ()"),
        ('(module (func (export "add") (param i64 i64)))', {}, "add (i64, i64) -> ()"),
        ('(module (func (export "add") (param i32 i32)))', {}, "none, entry-not-found: "),
        (
            '(module (func (export "run") (param v128 externref)))',
            {},
            "run (v128, externref) -> (), but unsupported-signature: ",
        ),
    ],
)
def test_inspect_names_the_entry_that_the_daemon_would_choose(
    tmp_path: Path, text: str, variables: dict[str, str], entry: str
) -> None:
    """From the same environment; or why there is none, or why it can't be called."""
    done = inspect(module(tmp_path, text), **variables)
    line = next(line for line in done.stdout.splitlines() if line.startswith("entry "))
    assert line.removeprefix("entry ").startswith(entry)
    assert done.returncode == 0


def test_inspect_of_a_module_with_too_much_memory_says_so(tmp_path: Path) -> None:
    """Such a module can't run at all."""
    file = module(tmp_path, "(module (memory 80))")
    lines = inspect(file, WASMDROP_MEMORY_MB="4").stdout.splitlines()
    assert "memory 5 MiB initially, more than the 4 MiB that a job may have" in lines


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "invalid-module: the file is not WebAssembly: it is empty"),
        (b"(module)", "invalid-module: the file is not WebAssembly: it is WebAssembly text (WAT)"),
        (b"\x7fELF" + bytes(60), "invalid-module: the file is not WebAssembly: it is an ELF file"),
        (b"\0asm\x01\0\0\0\x01", "invalid-module: "),
        (b"\x1b]0;owned\x07\n", "invalid-module: the file is not WebAssembly: "),
        (bytes(1024 * 1024 + 1), "invalid-module: the file is larger than the limit (1048576"),
    ],
)
def test_inspect_of_a_refused_module_ends_with_1_and_the_reason(
    tmp_path: Path, data: bytes, message: str
) -> None:
    """On standard error, with nothing on standard output."""
    file = tmp_path / "it.wasm"
    file.write_bytes(data)
    done = inspect(file, "--json", WASMDROP_MAX_MODULE_MB="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"wasmdrop: {message}")
    assert "\x1b" not in done.stderr


def test_inspect_of_a_file_that_cant_be_read_is_a_usage_error(tmp_path: Path) -> None:
    """In one line."""
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "x", "No such file")):
        done = inspect(path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"wasmdrop: {path}: can't be read: {reason}")
        assert done.stderr.count("\n") == 1


def test_inspect_reads_a_pipe(tmp_path: Path) -> None:
    """As of ``inspect <(curl …)``."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(bytes(wat2wasm(FIB)),))
    writer.start()
    found = inspected(path)
    writer.join()
    assert found["functions"] == {"fib": {"params": ["i64"], "results": ["i64"]}}


def test_inspect_leaves_no_file_and_disturbs_no_daemon(tmp_path: Path) -> None:
    """Even if all directories are inside those that a daemon watches."""
    file = module(tmp_path, FIB)
    shared = tmp_path / "shared"
    shared.mkdir()
    inspected(
        file,
        TMPDIR=str(shared),
        WASMDROP_SHARED_DIR=str(shared),
        WASMDROP_STATE_DIR=str(shared / "state"),
    )
    assert list(shared.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it.wasm", "shared"]


#: An export of the instance of HTTP's types; without it, nothing is missing.
_RESOURCE: Final = '(export "fields" (type (sub resource)))'

COMPONENT: Final = """
(component
  (import "wasi:cli/environment@0.2.0" (instance))
  (import "wasi:http/types@0.2.0" (instance HTTP))
  (core module $core (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "run") (param i32 i32 f64) (result i32) (i32.const 0)))
  (core instance $i (instantiate $core))
  (func (export "run") (param "names" (list string)) (param "factor" float64) (result u32)
    (canon lift (core func $i "run") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc")))))
"""


LINKED: Final = COMPONENT.replace(" HTTP", "")


def test_inspect_of_a_component_shows_signatures_as_wit(tmp_path: Path) -> None:
    """An unused interface is no obstacle."""
    file = module(tmp_path, LINKED)
    lines = inspect(file).stdout.splitlines()
    assert "export func run func(names: list<string>, factor: f64) -> u32" in lines
    assert "import instance wasi:cli/environment@0.2.0 (provided)" in lines
    assert "import instance wasi:http/types@0.2.0 (provided)" in lines
    assert inspected(file)["functions"] == {
        "run": {"params": ["names: list<string>", "factor: f64"], "results": ["u32"]}
    }


def test_inspect_of_a_component_that_imports_http_cant_be_linked(tmp_path: Path) -> None:
    """The other interfaces of WASI 0.2 are provided."""
    done = inspect(module(tmp_path, COMPONENT.replace("HTTP", _RESOURCE)))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "import instance wasi:cli/environment@0.2.0 (provided)" in lines
    assert "import instance wasi:http/types@0.2.0 (not provided)" in lines
    assert "it is a component that needs HTTP (wasi:http); build it without" in done.stderr


@pytest.mark.parametrize(
    "core",
    [
        "(func $s (unreachable)) (start $s)",
        "(func $s (loop (br 0))) (start $s)",
        '(memory 1) (data (i32.const 70000) "x")',
    ],
    ids=["trap", "loop", "data"],
)
def test_inspect_of_a_component_runs_no_code(tmp_path: Path, core: str) -> None:
    """A component that would trap when it is instantiated is shown."""
    text = f"(component (core module $m {core}) (core instance (instantiate $m)))"
    found = inspected(module(tmp_path, text), WASMDROP_COMPILE_SEC="20")
    assert found["link_error"] is None


ASYNC: Final = """
(component
  (core module $core
    (import "" "return" (func $return (param i32)))
    (func (export "run") (result i32) (call $return (i32.const 5)) (i32.const 0))
    (func (export "back") (param i32 i32 i32) (result i32) (i32.const 0)))
  (core func $return (canon task.return (result u32)))
  (core instance $i (instantiate $core (with "" (instance (export "return" (func $return))))))
  (func (export "run") async (result u32)
    (canon lift (core func $i "run") async (callback (core func $i "back")))))
"""


def test_inspect_of_an_async_function_says_that_it_cant_be_called(tmp_path: Path) -> None:
    """Such functions are part of WASI 0.3."""
    done = inspect(module(tmp_path, ASYNC))
    lines = done.stdout.splitlines()
    assert "export func run async func() -> u32" in lines
    entry = "entry run async func() -> u32, but unsupported-signature: the function is async"
    assert any(line.startswith(entry) for line in lines)
    done = inspect(module(tmp_path, ASYNC), "--template")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("wasmdrop: unsupported-signature: the function is async")


TWO = """(module (func (export "_initialize")) (func (export "a") (param i32))
  (func (export "b") (param f64)))"""


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        (LINKED, (), {"entry": "run", "args": [[""], 0.0]}),
        (LINKED.replace('"run"', '"walk"'), (), {"entry": "walk", "args": [[""], 0.0]}),
        (WASI, (), {"entry": "_start", "args": []}),
        (FIB, (), {"entry": "fib", "args": [0]}),
        (TWO, ("--entry", "b"), {"entry": "b", "args": [0.0]}),
    ],
    ids=["component", "the-only-one", "command", "the-only-one-of-a-module", "named"],
)
def test_inspect_template_prints_a_valid_input(
    tmp_path: Path, text: str, words: tuple[str, ...], expected: dict[str, Any]
) -> None:
    """One line of JSON and nothing else."""
    done = inspect(module(tmp_path, text), "--template", *words)
    assert json.loads(done.stdout) == expected
    assert done.returncode == 0


def test_inspect_template_of_a_missing_entry_is_refused(tmp_path: Path) -> None:
    """With the code that a job would end with; if there is a choice, with how to make it."""
    done = inspect(module(tmp_path, TWO), "--template")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith('it exports "_initialize", "a", "b"; say which with --entry\n')
    done = inspect(module(tmp_path, LINKED), "--template", "--entry", "walk")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "entry-not-found" in done.stderr
