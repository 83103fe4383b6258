"""The native program's readers of messages, compiled alone and given any bytes."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.native.build import ROOT, SOURCES
from tests.support.require import require, require_tools
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.module_types import FunctionType
from wasmdrop.sandbox.confinement.confine import Confinement
from wasmdrop.sandbox.guest.native_zygote import _configuration
from wasmdrop.sandbox.memory_shares import MemoryShares
from wasmdrop.sandbox.native_wire import encode_request
from wasmdrop.sandbox.wire import FRAME, EngineOptions, Invocation, Preparation, WasiContext

HARNESS: Final = ROOT / "tests/support/native/fuzz_messages.c"
SANITIZERS: Final = ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")
#: Some seconds, also on a slow machine.
RUNS: Final = 200_000

#: The first byte of an input selects the reader; see ``fuzz_messages.c``.
REQUEST: Final = b"\0"
CONFIGURATION: Final = b"\1"

TYPES: Final = ("i32", "i64", "f32", "f64")
FILES: Final = {"a": b"content", "b/c": b""}


def requests() -> Iterator[bytes]:
    """Yield requests: of a function, and of a command with all that it can have."""
    function = FunctionType(TYPES, TYPES)
    yield encode_request(Invocation("run", function, (1, 2, 3, 4), False, True, 1, None), b"", {})
    wasi = WasiContext(("module.wasm", ""), {"A": "1", "B": ""}, 5, MEBIBYTE, ("lib", "data"))
    command = Invocation("_start", FunctionType(), (), True, False, 1, wasi)
    yield encode_request(command, b"input", FILES)


def configurations() -> Iterator[bytes]:
    """Yield configurations: without and with directories."""
    shares = MemoryShares(MEBIBYTE, 10, MEBIBYTE, 10)
    for disk_bytes, directories in ((None, ()), (MEBIBYTE, (5, 6))):
        preparation = Preparation(
            *(EngineOptions(fuel=True), "memory", MEBIBYTE, shares, MEBIBYTE, 1000, True, False),
            disk_bytes=disk_bytes,
            tells_refusals=True,
        )
        yield b"".join(_configuration(preparation, Confinement(), 4, directories))


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the readers with libFuzzer around them."""
    require_tools("clang")
    program = tmp_path_factory.mktemp("fuzzer") / "fuzz_messages"
    sources = (HARNESS, SOURCES / "message.c")
    command = ["clang", "-std=c11", "-O1", "-g", *SANITIZERS, f"-I{SOURCES}", *map(str, sources)]
    done = subprocess.run([*command, "-o", program], capture_output=True, check=False, text=True)
    require("libclang_rt" not in done.stderr, "clang's libFuzzer and sanitizers")
    assert done.returncode == 0, done.stderr
    return program


def test_readers_of_messages_with_any_bytes_stay_inside_the_message(
    fuzzer: Path, tmp_path: Path
) -> None:
    """Starting from messages of the real encoders."""
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    inputs = [REQUEST + frame[FRAME.size :] for frame in requests()]
    inputs += [CONFIGURATION + message for message in configurations()]
    for number, data in enumerate(inputs):
        (seeds / str(number)).write_bytes(data)
    done = subprocess.run(
        [fuzzer, "-seed=1", f"-runs={RUNS}", f"-artifact_prefix={tmp_path}/", seeds],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
