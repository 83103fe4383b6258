"""Unit tests of the native zygote's configuration, and of what its C sources repeat from Python.

Also the parts of wasmtime's C API that the sources declare. If such a test fails after an update of
wasmtime, check every use of the changed part.
"""

import ctypes
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from wasmtime import _bindings

from tests.support.native.build import SOURCES
from tests.support.require import require_tools
from wasmdrop.sandbox import failures
from wasmdrop.sandbox.confinement.confine import PROCESS_BYTES, Confinement
from wasmdrop.sandbox.guest import native_zygote
from wasmdrop.sandbox.guest.growth_refusals import MEMORY_EXPORT, TABLE_EXPORT
from wasmdrop.sandbox.guest.native_zygote import _configuration
from wasmdrop.sandbox.guest.wasmtime_ffi import ffi
from wasmdrop.sandbox.memory_shares import MemoryShares
from wasmdrop.sandbox.native_wire import (
    FRAMES_SENT,
    MAX_NATIVE_REPORT_BYTES,
    REPORT,
    Result,
    decode_report,
)
from wasmdrop.sandbox.wire import FRAME, MAX_DESCRIPTORS, EngineOptions, Preparation, ZygoteRequest

#: Of wasmtime and of WebAssembly's JavaScript interface.
MAX_VALUES: Final = 1000

#: Types of C, as ``struct`` writes them.
FORMATS: Final = {"uint32_t": "I", "int32_t": "i", "uint64_t": "Q", "int64_t": "q", "double": "d"}

#: Types of C that are no pointers, as the bindings of Python have them.
PLAIN: Final = {
    "void": None,
    "bool": "c_bool",
    "uint8_t": "c_ubyte",
    "uint32_t": "c_uint",
    "int64_t": "c_long",
    "uint64_t": "c_ulong",
    "size_t": "c_ulong",
    "wasmtime_func_callback_t": "CFunctionType",
}

#: Structures whose members the zygote reads or writes.
STRUCTURES: Final = (
    *("wasm_byte_vec_t", "wasm_frame_vec_t", "wasm_valtype_vec_t", "wasmtime_instance_t"),
    *("wasmtime_func_t", "wasmtime_memory_t", "wasmtime_global_t"),
    *("wasmtime_extern_t", "wasmtime_val_t"),
)


def source(name: str) -> str:
    """Return a C source without its comments."""
    return re.sub(r"/\*.*?\*/", "", (SOURCES / name).read_text(encoding="utf-8"), flags=re.DOTALL)


def constant(name: str, file: str) -> int:
    """Return the value of a constant, which may be a product."""
    found = re.search(rf"\b{name} = ([0-9* ]+)", source(file))
    assert found is not None, name
    value = 1
    for factor in found[1].split("*"):
        value *= int(factor)
    return value


def fields(pattern: str, file: str) -> list[tuple[str, str]]:
    """Return the types and names of the fields of the structure that ``pattern`` begins."""
    found = re.search(rf"{pattern} \{{(.*?)\}}", source(file), re.DOTALL)
    assert found is not None, pattern
    declarations = [one.strip().partition(" ") for one in found[1].split(";") if one.strip()]
    return [
        (kind, name.strip()) for kind, _space, names in declarations for name in names.split(",")
    ]


def form(pattern: str, file: str) -> str:
    """Return the format of a structure."""
    return "<" + "".join(FORMATS[kind] for kind, _name in fields(pattern, file))


def test_report_in_c_has_the_layout_that_python_decodes() -> None:
    """With no padding."""
    layout = form("struct report", "report.h")
    assert layout == REPORT.format
    assert struct.calcsize("@" + layout[1:]) == REPORT.size


def test_results_in_c_have_the_numbers_that_python_decodes() -> None:
    """By their order."""
    found = re.search(r"enum result \{(.*?)\}", source("report.h"), re.DOTALL)
    assert found is not None
    names = [name.strip() for name in found[1].split(",") if name.strip()]
    assert names == [f"RESULT_{result.name}" for result in Result]
    assert list(Result) == list(range(len(names)))


def test_limits_in_c_are_those_of_python() -> None:
    """Of frames of a backtrace, of their names, of values, and of descriptors."""
    assert constant("SHOWN_FRAMES", "report.c") == FRAMES_SENT == failures.FRAMES_SHOWN
    assert constant("SHOWN_NAME_BYTES", "report.c") >= 4 * (failures._NAME_SHOWN + 1)
    assert constant("MAX_VALUES", "message.h") == MAX_VALUES
    assert constant("MAX_DESCRIPTORS", "zygote.c") == MAX_DESCRIPTORS


def test_largest_report_fits_the_limit() -> None:
    """Results, a message and a backtrace together, though no report has all of them."""
    names_bytes = FRAMES_SENT * (8 + constant("SHOWN_NAME_BYTES", "report.c"))
    message_bytes = 4 + constant("MESSAGE_BYTES", "report.c")
    largest = REPORT.size + 8 * MAX_VALUES + message_bytes + 4 + names_bytes
    assert largest <= MAX_NATIVE_REPORT_BYTES
    found = re.search(r"char payload\[([0-9* ]+)\]", source("report.c"))
    assert found is not None
    assert eval(found[1], {}) == MAX_NATIVE_REPORT_BYTES  # noqa: S307 - a product


def test_configuration_in_c_has_the_layout_that_python_encodes() -> None:
    """Of its numbers and of its arrays."""
    numbers = form("struct configuration \\{\\s*struct", "message.h")
    assert struct.calcsize(numbers) == native_zygote._NUMBERS.size
    assert struct.calcsize("@" + numbers[1:]) == native_zygote._NUMBERS.size
    assert form("struct limit", "message.h") == "<QQQ"
    assert native_zygote._LIMIT.format == "<3Q"
    assert form("struct rule", "message.h") == "<QQ"
    assert native_zygote._RULE.format == "<2Q"


def texts(data: bytes) -> Iterator[bytes]:
    """Yield the texts of a message."""
    while data:
        size = int.from_bytes(data[:4], "little")
        assert data[4 + size] == 0
        yield data[4 : 4 + size]
        data = data[5 + size :]


def read(
    preparation: Preparation, directories: tuple[int, ...] = ()
) -> tuple[dict[str, int], list[bytes]]:
    """Encode a configuration and read it by the names of C: its numbers and its texts."""
    data = b"".join(_configuration(preparation, Confinement(), 4, directories))
    size = native_zygote._NUMBERS.size
    names = [name for _kind, name in fields("struct configuration \\{\\s*struct", "message.h")]
    numbers = dict(zip(names, struct.unpack(f"<{len(names)}Q", data[:size]), strict=True))
    return numbers, list(texts(data[size:]))


PREPARATION: Final = Preparation(
    options=EngineOptions(fuel=True),
    memory_export="memory",
    memory_bytes=4 << 20,
    shares=MemoryShares(1, 2, 3, 4),
    output_bytes=1000,
    fuel=77,
    has_wasi=True,
    is_component=False,
    tells_refusals=True,
)


def test_configuration_has_the_preparation_by_the_names_of_c() -> None:
    """Names of exports come first among the texts."""
    numbers, (memory, refused_memory, refused_table, *_rest) = read(PREPARATION)
    expected = {
        "counts_fuel": 1,
        "has_wasi": 1,
        "has_directory": 0,
        "fuel": 77,
        "first_memory_bytes": PREPARATION.shares.memory_bytes_at_first,
        "first_table_elements": PREPARATION.shares.table_elements_at_first,
        "memory_bytes": PREPARATION.shares.memory_bytes,
        "table_elements": PREPARATION.shares.table_elements,
    }
    assert numbers | expected == numbers
    assert (memory, refused_memory, refused_table) == (
        b"memory",
        MEMORY_EXPORT.encode(),
        TABLE_EXPORT.encode(),
    )


def test_configuration_without_what_does_not_apply_has_empty_names() -> None:
    """And as much fuel as can't be used."""
    preparation = Preparation(
        *(EngineOptions(), None, 4 << 20, MemoryShares(1, 2, 3, 4), 1000, None, False, False)
    )
    numbers, (memory, refused_memory, refused_table, *_rest) = read(preparation)
    assert (numbers["counts_fuel"], numbers["has_wasi"]) == (0, 0)
    assert numbers["fuel"] == (1 << 63) - 1
    assert numbers["child_processes"] == 0
    assert (memory, refused_memory, refused_table) == (b"", b"", b"")


def test_program_that_cannot_be_executed_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For instance if it was built for another machine."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    ours, theirs = socket.socketpair()
    program = tmp_path / "zygote"
    program.write_text("no program")
    program.chmod(0o755)
    executables = [os.open(program, os.O_RDONLY) for _ in range(2)]
    descriptors = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
    with ours, theirs:
        with pytest.raises(SystemExit):
            native_zygote.execute_zygote(
                executables, ZygoteRequest(PREPARATION), Confinement(), theirs.fileno(), descriptors
            )
        report = decode_report(ours.recv(1 << 16)[FRAME.size :])
    assert report.result is Result.INTERNAL
    assert report.message.endswith("Exec format error")
    for fd in (*executables, *descriptors):
        os.close(fd)


@pytest.mark.parametrize(
    ("disk_bytes", "directories"), [(None, ()), (5000, (7,)), (5000, (7, 8, 9))]
)
def test_configuration_has_the_confinement_that_python_describes(
    disk_bytes: int | None, directories: tuple[int, ...]
) -> None:
    """Rules: reading the machine code, then the directories of jobs and the grants."""
    preparation = Preparation(
        *(EngineOptions(), None, 4 << 20, MemoryShares(1, 2, 3, 4), 1000, None, True, False),
        disk_bytes=disk_bytes,
    )
    numbers, (*_names, limits, rules, zygote, loaded, child) = read(preparation, directories)
    described = Confinement().describe_zygote(
        file_bytes=max(1000, disk_bytes or 0),
        data_bytes=(4 << 20) + PROCESS_BYTES,
        threads=True,
        has_directory=disk_bytes is not None,
        has_grants=len(directories) > 1,
    )
    rights = described.rights
    assert tuple(struct.iter_unpack("<3Q", limits)) == described.limits
    assert (zygote, loaded, child) == described.filters
    assert numbers["child_processes"] == described.child_processes
    assert numbers["highest_cpu_seconds"] == described.highest_cpu_seconds
    assert numbers["has_directory"] == (disk_bytes is not None)
    given = ("file_rights", "network_rights", "scopes", "directory_rights", "grant_rights")
    assert [numbers[name] for name in ("has_landlock", *given)] == [
        *(rights.version > 0, rights.files, rights.network, rights.scopes),
        *(rights.own_directory, rights.grant),
    ]
    expected = [(rights.readable, 4)]
    expected += zip([rights.own_directory, rights.grant, rights.grant], directories, strict=False)
    assert list(struct.iter_unpack("<2Q", rules)) == expected


def _functions() -> Iterator[tuple[str, str, list[str]]]:
    """Yield the result, name and parameters of each function of wasmtime that is declared."""
    text = source("wasmtime_api.h").replace("\\\n", " ")
    (whole,) = re.findall(r"#define WASMTIME_FUNCTIONS\(F\)(.*)", text)
    for declaration in re.split(r"\bF\((?=\w)", whole)[1:]:
        result, name, params = declaration.strip().removesuffix(")").split(",", 2)
        inner = params.strip().removeprefix("(").removesuffix(")")
        yield result, name.strip(), [one.strip() for one in inner.split(",") if one != "void"]


def _is_like(declared: str, bound: Any) -> bool:
    """Whether a type of C is that of the bindings; the kinds of pointers must be equal."""
    name = None if bound is None else bound.__name__
    if "(*)" in declared:
        return bool(name == "CFunctionType")
    base = declared.replace("const", " ").replace("*", " ").split()[0]
    stars = declared.count("*")
    if stars == 0:
        return PLAIN[base] == name
    if base == "void":
        return bool(name == "c_void_p")
    names = {"char": ("c_char", "c_ubyte"), "uint8_t": ("c_ubyte",), "uint64_t": ("c_ulong",)}
    pointed = names.get(base, (base, base.removesuffix("_t")))
    return name in {"LP_" * stars + one for one in pointed}


def test_functions_of_wasmtime_in_c_are_those_of_its_bindings() -> None:
    """A changed parameter would corrupt memory instead of failing."""
    functions = list(_functions())
    assert len(functions) == source("wasmtime_api.h").count(" F(")
    for result, name, params in functions:
        bound = getattr(_bindings, f"_{name}")
        assert len(params) == len(bound.argtypes), name
        assert _is_like(result, bound.restype), name
        for declared, kind in zip(params, bound.argtypes, strict=True):
            assert _is_like(declared, kind), (name, declared, kind)


def test_constants_of_wasmtime_in_c_are_those_of_its_bindings() -> None:
    """The kinds of exports and values."""
    found = re.findall(r"\b(WASM\w*) = (\d+)", source("wasmtime_api.h"))
    assert len(found) == 8
    for name, value in found:
        assert getattr(ffi, name).value == int(value), name


def test_structures_of_wasmtime_in_c_have_the_layout_of_its_bindings(tmp_path: Path) -> None:
    """Their sizes, and the place of the union in a value."""
    require_tools("cc")
    lines = [f'P("{name}", sizeof({name}))' for name in STRUCTURES]
    lines += [
        f'P("{name}.of", offsetof({name}, of))' for name in ("wasmtime_extern_t", "wasmtime_val_t")
    ]
    program = tmp_path / "sizes.c"
    program.write_text(
        '#include "wasmtime_api.h"\n#include <stdio.h>\n'
        '#define P(name, number) printf("%s %zu\\n", name, number);\n'
        f"int main(void) {{ {' '.join(lines)} return 0; }}"
    )
    compiled = tmp_path / "sizes"
    subprocess.run(["cc", "-std=c11", f"-I{SOURCES}", program, "-o", compiled], check=True)
    output = subprocess.run([compiled], check=True, capture_output=True, text=True).stdout
    expected = {name: ctypes.sizeof(getattr(_bindings, name)) for name in STRUCTURES}
    expected["wasmtime_extern_t.of"] = _bindings.wasmtime_extern_t.of.offset
    expected["wasmtime_val_t.of"] = _bindings.wasmtime_val_t.of.offset
    assert {name: int(size) for name, size in map(str.split, output.splitlines())} == expected
