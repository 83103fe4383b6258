"""Compile a module in a child process: module bytes in, machine code and a summary out."""

import contextlib
import errno
import mmap

import msgspec
from wasmtime import Module, WasmtimeError
from wasmtime.component import Component

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.module_types import ModuleSummary
from wasmdrop.protocol.outcome import Code
from wasmdrop.sandbox.guest.component import summarize_component
from wasmdrop.sandbox.guest.custom_sections import read_custom_sections
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.guest.file_type import HEAD_BYTES, refuse_unless_wasm
from wasmdrop.sandbox.guest.growth_refusals import instrument_growth
from wasmdrop.sandbox.guest.link_diagnosis import (
    diagnosed,
    diagnosed_component,
    explained_refusal,
    refuse_object_file,
)
from wasmdrop.sandbox.guest.module_parser import parse_component_memory, parse_module
from wasmdrop.sandbox.wire import CompileReport, CompileRequest
from wasmdrop.system.descriptors import write_all
from wasmdrop.system.full_disks import is_of_full_disk


def compile_module(
    request: CompileRequest, engine: Engine, module_fd: int, code_fd: int
) -> CompileReport:
    """Compile the module in ``module_fd`` and write its machine code to ``code_fd``."""
    try:
        # A mapping could change between the checks and the compilation.
        module = _read(module_fd, request.module_bytes)
        is_component = refuse_unless_wasm(module[:HEAD_BYTES]) == "component"
        sections = read_custom_sections(module)
        try:
            if is_component:
                component = Component(engine.wasmtime_engine, module)
                summary = summarize_component(component, engine, parse_component_memory(module))
                summary = diagnosed_component(summary, sections, engine, component)
                code = component.serialize()
            else:
                summary, code = _compiled(module, engine)
                refuse_object_file(summary, sections)
                summary = diagnosed(summary, sections, engine)
        except WasmtimeError as error:
            message = explained_refusal(str(error), sections)
            raise RefusedError(Code.INVALID_MODULE, message) from None
        write_all(code_fd, code)
    except RefusedError as refusal:
        return CompileReport(code=refusal.code, message=refusal.message)
    except OSError as error:
        if is_of_full_disk(error):
            message = "no room for its machine code"
            return CompileReport(code=Code.INTERNAL, message=message, lacks_room=True)
        if error.errno != errno.EFBIG:
            raise
        message = f"its machine code takes more than {request.code_bytes} bytes"
        return CompileReport(code=Code.COMPILE_LIMIT, message=message)
    except MemoryError:
        limit = f"{request.memory_bytes // MEBIBYTE} MiB of memory (WASMDROP_COMPILE_MEMORY_MB)"
        message = f"the compiler ran out of its {limit}"
        return CompileReport(code=Code.COMPILE_LIMIT, message=message)
    return CompileReport(summary=summary)


def _compiled(module: bytes, engine: Engine) -> tuple[ModuleSummary, bytearray]:
    """Return the summary and the machine code of a core module."""
    # The added functions may exceed a limit. A module that is invalid itself fails again below.
    with contextlib.suppress(WasmtimeError):
        Module.validate(engine.wasmtime_engine, module)
        instrumented = instrument_growth(module)
        if instrumented is not None:
            code = Module(engine.wasmtime_engine, instrumented).serialize()
            return msgspec.structs.replace(parse_module(module), tells_refusals=True), code
    code = Module(engine.wasmtime_engine, module).serialize()
    return parse_module(module), code


def _read(fd: int, size: int) -> bytes:
    if size == 0:
        return b""
    with mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as view:
        return view[:]
