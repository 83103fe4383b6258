"""Summarize a compiled component, and run one call into one.

The compile process reports signatures as data (:class:`.WitFunction`), and each request contains
its function's signature. So neither the daemon nor a running child reads types from a component.
A component can share types, but a signature is written out in full, which can grow exponentially:
hence the limits.
"""

import re
from typing import Any, Final

import msgspec
from wasmtime import ExitTrap, WasmtimeError, component

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.module_types import (
    UNSUPPORTED,
    Import,
    ModuleKind,
    ModuleSummary,
    WitFunction,
    WitType,
)
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text
from wasmdrop.sandbox.failures import (
    backtrace,
    cause_of,
    is_out_of_memory,
    mebibytes,
    memory_refusal,
    stack_hint,
)
from wasmdrop.sandbox.guest.core_module import ModuleRun, StaleCodeError
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.guest.lowering import lift, lower
from wasmdrop.sandbox.guest.memory_usage import memory_sizes
from wasmdrop.sandbox.guest.module_parser import DeclaredMemory
from wasmdrop.sandbox.guest.summary_limits import SummaryLimits
from wasmdrop.sandbox.guest.wasmtime_ffi import call_component_function, ffi
from wasmdrop.sandbox.wire import Invocation, RunReport

#: Parts and depth of one function's types, written out. JSON may be nested 64 levels deep, and a
#: level of WIT may take two of JSON.
_MAX_PARTS: Final = 2000
_MAX_DEPTH: Final = 24

#: wasmtime's message for a memory or table that is too large from the start.
_MINIMUM: Final = re.compile(r"exceeds (?:memory|table) limits|(?:memory|table) minimum size")

#: Fill levels of the largest memory: from the first, a failure counts as lack of memory, and from
#: the second, the message mentions it.
_FULL: Final = 15 / 16
_LARGE: Final = 1 / 2

_SCALARS: Final = {
    component.Bool: "bool",
    component.Char: "char",
    component.String: "string",
    **{getattr(component, name): name.lower() for name in ("F32", "F64")},
    **{
        getattr(component, f"{sign}{bits}"): f"{sign.lower()}{bits}"
        for sign in "SU"
        for bits in (8, 16, 32, 64)
    },
}
_UNSUPPORTED: Final = {
    component.OwnType: "a resource",
    component.BorrowType: "a borrowed resource",
    component.StreamType: "a stream",
    component.FutureType: "a future",
    component.ErrorContext: "an error-context",
}
_KINDS: Final = {
    component.ComponentInstanceType: "instance",
    component.ComponentType: "component",
    component.FuncType: "func",
    component.ModuleType: "module",
    component.ResourceType: "resource",
}
_encoder = msgspec.json.Encoder()


class _TooLargeError(Exception):
    """A signature is too large when written out."""


def summarize_component(
    compiled: component.Component, engine: Engine, declared_memory: DeclaredMemory
) -> ModuleSummary:
    """Return the summary of a component.

    Raises ``RefusedError`` with ``COMPILE_LIMIT`` if it exceeds the limits of a summary.
    """
    interface = _ComponentInterface()
    for name, item in compiled.type.imports(engine.wasmtime_engine).items():
        interface.count(name)
        interface.imports.append(Import(name, "", _KINDS.get(type(item.ty), "type")))
    for name, item in compiled.type.exports(engine.wasmtime_engine).items():
        form = item.ty
        if isinstance(form, component.FuncType):
            interface.add(name, form)
        elif isinstance(form, component.ComponentInstanceType):
            for inner, inner_item in form.exports(engine.wasmtime_engine).items():
                function = inner_item.ty
                if isinstance(function, component.FuncType):
                    interface.add(f"{name}#{inner}", function)
        else:
            interface.count(name)
            interface.others[name] = _KINDS.get(type(form), "type")
    return ModuleSummary(
        ModuleKind.COMPONENT,
        other_exports=interface.others,
        imports=tuple(interface.imports),
        memory_count=len(declared_memory.memories),
        table_count=len(declared_memory.tables),
        grows_tables=declared_memory.grows_tables,
        has_gc_heap=declared_memory.has_gc_heap,
        has_shared_memory=declared_memory.has_shared_memory,
        wit_functions=interface.functions,
    )


class _ComponentInterface:
    """Collects the interface of one component, within the limits of a summary."""

    def __init__(self) -> None:
        self.functions: dict[str, WitFunction] = {}
        self.others: dict[str, str] = {}
        self.imports: list[Import] = []
        self._limits = SummaryLimits()
        self._parts = 0

    def count(self, name: str) -> None:
        """Count a name; raise ``RefusedError`` if there are too many."""
        self._limits.count_names(1)
        self._limits.count_name(name)

    def add(self, name: str, form: component.FuncType) -> None:
        """Add an exported function; raise ``RefusedError`` if it exceeds a limit."""
        self.count(name)
        self._parts = 0
        try:
            params = tuple((param, self._type(inner)) for param, inner in form.params)
            result = None if form.result is None else self._type(form.result)
            is_async = bool(ffi.wasmtime_component_func_type_async(form.ptr()))
            function = WitFunction(params, result, is_async)
        except _TooLargeError:
            what = f"a type of more than {_MAX_PARTS} parts, or {_MAX_DEPTH} levels"
            function = WitFunction((), WitType(UNSUPPORTED, (what,)))
        self._limits.count_type(str(function))
        self.functions[name] = function

    def _type(self, form: component.ValType, depth: int = 0) -> WitType:
        self._parts += 1
        if depth > _MAX_DEPTH or self._parts > _MAX_PARTS:
            raise _TooLargeError
        scalar = _SCALARS.get(type(form))
        if scalar is not None:
            return WitType(scalar)
        names, inner = _parts_of(form)
        self._parts += len(names)
        types = tuple(None if part is None else self._type(part, depth + 1) for part in inner)
        kind = type(form).__name__.removesuffix("Type").lower()
        if names and kind in {"enum", "flags", "record", "variant"}:
            return WitType(kind, names, types)
        if kind in {"list", "option", "result", "tuple"}:
            return WitType(kind, (), types)
        return WitType(UNSUPPORTED, (_UNSUPPORTED.get(type(form), kind),))


def _parts_of(
    form: component.ValType,
) -> tuple[tuple[str, ...], tuple[component.ValType | None, ...]]:
    """Return the names and inner types of a composite type."""
    match form:
        case component.ListType():
            return (), (form.element,)
        case component.OptionType():
            return (), (form.payload,)
        case component.ResultType():
            return (), (form.ok, form.err)
        case component.TupleType():
            return (), tuple(form.elements)
        case component.EnumType() | component.FlagsType():
            return tuple(form.names), ()
        case component.RecordType():
            fields = form.fields
            return tuple(name for name, _inner in fields), tuple(inner for _name, inner in fields)
        case component.VariantType():
            cases = form.cases
            return tuple(name for name, _inner in cases), tuple(inner for _name, inner in cases)
    return (), ()


class ComponentRun(ModuleRun):
    """One instance of a component, and the report of how its call ended."""

    compiled: component.Component
    component_instance: component.Instance

    def load(self, code_fd: int) -> None:
        """Map the machine code; raise ``StaleCodeError`` if this engine can't load it."""
        self.set_store_limits()
        try:
            path = f"/proc/self/fd/{code_fd}"
            self.compiled = component.Component.deserialize_file(self.engine.wasmtime_engine, path)
        except WasmtimeError as error:
            raise StaleCodeError(str(error)) from None

    def link(self) -> None:
        """Create the instance; raise ``RefusedError`` if that fails."""
        try:
            linker = self.engine.component_linker
            self.component_instance = linker.instantiate(self.store, self.compiled)
            self.set_growth_limits()
        except WasmtimeError as error:
            raise _refusal_of(error, is_linking=True) from None

    def call(self, invocation: Invocation) -> RunReport:
        """Call the entry; return the report."""
        assert invocation.component is not None  # noqa: S101 - what this class is for
        function = invocation.component.function
        args = (ffi.wasmtime_component_val_t * len(function.params))()
        for index, (arg, (_name, form)) in enumerate(
            zip(invocation.component.args, function.params, strict=True)
        ):
            lower(arg, form, args[index])
        results = (ffi.wasmtime_component_val_t * (function.result is not None))()
        entry = self._function(invocation.entry)
        try:
            call_component_function(self.store, entry, args, results)
        except WasmtimeError as error:
            return self._failure(error, invocation)
        if invocation.is_command:
            if results[0].of.result.is_ok:
                return RunReport(Code.OK, exit_code=0)
            return self.with_growth_reason(
                RunReport(Code.EXIT, "the program exited with code 1", exit_code=1)
            )
        plain: Any = None if function.result is None else lift(results[0], function.result)
        room_bytes = self.preparation.output_bytes
        if len(_encoder.encode(plain)) > room_bytes:
            message = f"returned more than {room_bytes} bytes of results"
            return RunReport(Code.OUTPUT_LIMIT, message)
        return RunReport(Code.OK, component_result=plain)

    def _failure(self, error: WasmtimeError, invocation: Invocation) -> RunReport:
        if isinstance(error, ExitTrap):
            if error.code == 0 and invocation.is_command:
                return RunReport(Code.OK, exit_code=0)
            message = f"the program exited with code {error.code}"
            exit_code = error.code & 0xFFFFFFFF
            return self.with_growth_reason(RunReport(Code.EXIT, message, exit_code=exit_code))
        refusal = _refusal_of(error)
        return self.with_growth_reason(RunReport(refusal.code, refusal.message))

    def refused_growth(self) -> tuple[str, bool]:
        """Guess from the size of the largest memory: components do not record refusals."""
        sizes = [] if self.address_map is None else memory_sizes(self.address_map)
        largest, most = max(sizes, default=0), self.preparation.shares.memory_bytes
        if largest < most * _LARGE:
            return "", False
        words = f"a memory had grown to {mebibytes(largest)} of at most {mebibytes(most)}"
        return words, largest >= most * _FULL

    def _function(self, entry: str) -> component.Func:
        interface, hash_mark, name = entry.rpartition("#")
        store, instance = self.store, self.component_instance
        parent = None
        if hash_mark:
            parent = instance.get_export_index(store, interface)
        index = instance.get_export_index(store, name, parent)
        found = None
        if index is not None and (parent is not None or not hash_mark):
            found = instance.get_func(store, index)
        if found is None:
            raise RefusedError(Code.ENTRY_NOT_FOUND, f"the component exports no {entry!r}")
        return found


def _refusal_of(error: WasmtimeError, *, is_linking: bool = False) -> RefusedError:
    """Return the refusal for an error, which only its text tells apart."""
    text = str(error)
    if "all fuel consumed" in text:
        return RefusedError(Code.FUEL_LIMIT, "used up its fuel")
    if "wasm trap: " in text:
        kind = text.partition("wasm trap: ")[2].partition("\n")[0].strip()
        where = "while the component was instantiated: " if is_linking else ""
        shown = f"{where}{kind}{stack_hint(text)}{_backtrace(text)}"
        return RefusedError(Code.TRAP, bounded_text(shown))
    if is_out_of_memory(text) or (is_linking and _MINIMUM.search(text)):
        return memory_refusal(text)
    if is_linking:
        return RefusedError(Code.LINK_ERROR, bounded_text(text))
    return RefusedError(Code.TRAP, bounded_text(f"{cause_of(text)}{_backtrace(text)}"))


def _backtrace(text: str) -> str:
    frames = [line.strip() for line in text.split("\n") if "!" in line and ": " in line]
    return backtrace([frame.partition("!")[2] or frame for frame in frames], len(frames))
