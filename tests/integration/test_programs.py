"""Published programs, dropped unchanged: a script or data in, a file or text out.

`examples/programs.py` downloads or builds them; continuous integration has them all.
"""

import base64
import itertools
import json
import os
import shutil
import struct
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.daemon import Daemon
from tests.support.examples import EXAMPLES, PROGRAMS
from tests.support.guests import running_in
from tests.support.require import require

_numbers: Final = itertools.count()


@pytest.fixture(scope="module")
def daemon(guest: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give one daemon for all programs, with a library for Python to read."""
    directory = tmp_path_factory.mktemp("programs")
    for path in (directory, *directory.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    library = directory / "pylib"
    library.mkdir(mode=0o755)
    (library / "greeting.py").write_text("def of(name):\n    return f'hello, {name}'\n")
    it = Daemon(
        directory,
        WASMDROP_COMPILE_SEC="300",
        WASMDROP_GRANTS=f"pylib={library}",
        # The daemon of the second guest finds the modules compiled.
        WASMDROP_STATE_DIR=str(tmp_path_factory.getbasetemp() / "state-of-programs"),
    )
    with running_in(guest, it):
        yield it


def run(daemon: Daemon, name: str, **changes: Any) -> tuple[dict[str, Any], Path]:
    """Run a program on its own input, or on another; return its result and its output."""
    module = PROGRAMS / f"{name}.wasm"
    require(module.exists(), f"{name}, which examples/programs.py makes")
    if not (daemon.wasm / module.name).exists():
        shutil.copy(module, daemon.wasm / f".{name}")
        (daemon.wasm / f".{name}").rename(daemon.wasm / module.name)
    given = json.loads((EXAMPLES / "programs" / name / "input.json").read_text())
    slot = f"input-{name}.json"
    # The same bytes in one slot would find the marker of an earlier job.
    marker = daemon.submit(slot, given | changes | {"module": name, "id": str(next(_numbers))})
    result: dict[str, Any] = daemon.result(slot)
    assert (marker["code"] == "ok") == (result.get("exit_code", 0) == 0), marker["message"]
    return result, daemon.shared / f"result-{name}.output"


def test_cpython_runs_a_script_on_a_data_file(daemon: Daemon) -> None:
    """CPython 3.12, 25 MB: the standard library is in the module."""
    result, output = run(daemon, "cpython")
    assert (result["exit_code"], result["stdout"], result["stderr"]) == (0, "2 rows\n", "")
    assert json.loads((output / "total.json").read_text()) == {"total": 3.75}


def test_cpython_imports_from_a_grant(daemon: Daemon) -> None:
    """A library of the operator, for jobs that ask for it."""
    script = {"a.py": "import greeting\nprint(greeting.of('world'))\n"}
    job = {"args": ["a.py"], "files": script, "env": {"PYTHONPATH": "/pylib"}}
    result, _ = run(daemon, "cpython", **job, grants=["pylib"])
    assert (result["exit_code"], result["stdout"]) == (0, "hello, world\n")
    result, _ = run(daemon, "cpython", **job)
    assert result["exit_code"] == 1
    assert "No module named 'greeting'" in result["stderr"]


def test_sqlite_creates_a_database(daemon: Daemon) -> None:
    """And opens one that it created in another job."""
    result, output = run(daemon, "sqlite")
    assert result["stdout"] == "pear|255\napple|120\n3|455\n"
    made = (output / "fruit.db").read_bytes()
    assert made.startswith(b"SQLite format 3\0")
    result, _ = run(
        daemon,
        "sqlite",
        files={
            "fruit.db": {"base64": base64.b64encode(made).decode()},
            "fruit.sql": "SELECT max(name) FROM fruit; SELECT * FROM stones;",
        },
    )
    assert (result["exit_code"], result["stdout"]) == (1, "plum\n")
    assert "no such table: stones" in result["stderr"]


def test_quickjs_runs_a_script_on_a_data_file(daemon: Daemon) -> None:
    """JavaScript, with files of its own."""
    result, output = run(daemon, "quickjs")
    assert (result["exit_code"], result["stdout"]) == (0, "10 primes\n")
    assert json.loads((output / "primes.json").read_text())[-3:] == [19, 23, 29]
    result, _ = run(daemon, "quickjs", args=["a.js"], files={"a.js": "null.x"})
    assert result["exit_code"] == 1
    assert "TypeError" in result["stderr"]


def test_flite_speaks_into_a_file(daemon: Daemon) -> None:
    """A sentence in, sound out."""
    result, output = run(daemon, "flite")
    assert result["exit_code"] == 0
    with wave.open(str(output / "speech.wav")) as sound:
        assert sound.getnframes() / sound.getframerate() > 0.5
        assert any(sound.readframes(sound.getnframes()))


def test_resvg_draws_a_picture(daemon: Daemon) -> None:
    """A drawing in, pixels out."""
    result, output = run(daemon, "resvg")
    assert result["exit_code"] == 0
    picture = (output / "circle.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", picture[16:24]) == (40, 30)


def test_brotli_decompresses_its_own_output(daemon: Daemon) -> None:
    """In two jobs, the second on the output of the first."""
    result, output = run(daemon, "brotli")
    assert result["exit_code"] == 0
    text = (output / "text").read_bytes()
    packed = (output / "text.br").read_bytes()
    assert len(packed) < len(text)
    result, output = run(
        daemon,
        "brotli",
        args=["--decompress", "--stdout", "text.br"],
        files={"text.br": {"base64": base64.b64encode(packed).decode()}},
    )
    assert result["exit_code"] == 0
    assert result["stdout"].encode() == text


def test_cpp_exceptions_translated_by_wasm_opt_are_caught(daemon: Daemon) -> None:
    """Clang emits legacy ones; the message of a refusal names this way."""
    given = {(-4,): 2**64 - 1, (0,): 0, (99,): 9, (100,): 10}
    for args, root in given.items():
        result, _output = run(daemon, "exceptions", args=list(args))
        assert result["results"] == [root]


def test_gc_structs_build_a_tree(daemon: Daemon) -> None:
    """Thousands of them, until an exception ends the insertion; the depth is that of Python's."""
    for prime in (4099, 7, 1009):
        tree: dict[int, int] = {}
        depths, value = [0], 1
        while value not in tree:
            smaller = max((one for one in tree if one < value), default=None)
            larger = min((one for one in tree if one > value), default=None)
            # A new leaf hangs at the later of its two neighbours.
            around = [tree[one] for one in (smaller, larger) if one is not None]
            tree[value] = max(around, default=0) + 1
            depths.append(tree[value])
            value = value * 3 % prime
        result, _output = run(daemon, "tree", args=[prime])
        assert result["results"] == [value, max(depths)]


def test_rust_command_of_wasi_0_2_runs(daemon: Daemon) -> None:
    """A component: arguments, standard input and output."""
    result, _ = run(daemon, "wordcount")
    assert (result["exit_code"], result["stdout"], result["entry"].partition("@")[0]) == (
        0,
        "3\n",
        "wasi:cli/run",
    )


@pytest.mark.parametrize("name", ["cpython", "sqlite", "quickjs"])
def test_deterministic_program_gives_the_same_bytes_twice(daemon: Daemon, name: str) -> None:
    """Output, files and fuel, in two processes at two times."""
    seen = []
    for _ in range(2):
        result, output = run(daemon, name, deterministic=True)
        marker = daemon.marker(f"input-{name}.json")
        assert marker is not None
        files = {path.name: path.read_bytes() for path in output.iterdir()}
        seen.append((result, files, marker["fuel_used"]))
    assert seen[0] == seen[1]


#: Prints file metadata, in an order in which no disk lists or numbers them.
LOOKS: Final = """
import os, sys, time
for n in range(100):
    with open(f'{n * 37 % 100}.txt', 'w') as file:
        file.write('x' * n)
os.mkdir('made')
os.remove('5.txt')
with open('module.py', 'w') as file:
    file.write('name = "imported"')
import module
print(module.name, os.listdir('.'))
for entry in os.scandir('.'):
    print(entry.name, entry.inode(), os.stat(entry.name))
print(os.stat('.'), time.time())
"""


def test_deterministic_program_sees_the_same_file_metadata(daemon: Daemon) -> None:
    """And uses the same fuel: CPython's depends on how many digits these numbers have."""
    seen = []
    for _ in range(6):
        result, _output = run(
            daemon, "cpython", deterministic=True, args=["looks.py"], files={"looks.py": LOOKS}
        )
        marker = daemon.marker("input-cpython.json")
        assert marker is not None
        assert result["stdout"].startswith("imported ["), result["stderr"]
        seen.append((result, marker["fuel_used"]))
    assert all(each == seen[0] for each in seen)


def test_deterministic_component_sees_the_same_file_metadata(daemon: Daemon) -> None:
    """Through WASI 0.2; the interpreter is the example."""
    module = EXAMPLES / "build" / "python-py.wasm"
    require(module.exists(), "python-py, which examples/build.py makes")
    shutil.copy(module, daemon.wasm / ".python-py")
    (daemon.wasm / ".python-py").rename(daemon.wasm / module.name)
    script = LOOKS.replace("import module\n", "").replace("module.name", "'imported'")
    job = {"module": "python-py", "args": ["looks.py"], "files": {"looks.py": script}}
    seen = []
    for number in range(3):
        slot = "input-component.json"
        marker = daemon.submit(slot, job | {"deterministic": True, "id": str(number)})
        result = daemon.result(slot)
        assert result["stdout"].startswith("imported ["), marker["message"]
        seen.append((result, marker["fuel_used"]))
    assert all(each == seen[0] for each in seen)
