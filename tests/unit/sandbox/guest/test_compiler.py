"""Unit tests of the compiler."""

import errno
import os

import pytest
from wasmtime import wat2wasm

from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.guest import compiler
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.wire import CompileRequest, EngineOptions

OPTIONS = EngineOptions()


def test_machine_code_that_finds_no_room_is_told_apart_from_other_faults() -> None:
    """The daemon then waits for room, and counts no attempt."""
    module = bytes(wat2wasm("(module)"))
    fd = os.memfd_create("module")
    os.write(fd, module)
    request = CompileRequest(OPTIONS, len(module), 1 << 20, 1, 1)
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123 - a device
        report = compiler.compile_module(request, Engine(OPTIONS), fd, full.fileno())
    os.close(fd)
    assert (report.code, report.lacks_room) == (Code.INTERNAL, True)


def test_machine_code_above_its_limit_is_a_compile_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is at fault and not the daemon, which would retry."""

    def too_large(_fd: int, _data: object) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(compiler, "write_all", too_large)
    module = bytes(wat2wasm("(module)"))
    fd = os.memfd_create("module")
    os.write(fd, module)
    request = CompileRequest(OPTIONS, len(module), 10, 1, 1)
    report = compiler.compile_module(request, Engine(OPTIONS), fd, -1)
    os.close(fd)
    assert report.code is Code.COMPILE_LIMIT
    assert "more than 10 bytes" in report.message
