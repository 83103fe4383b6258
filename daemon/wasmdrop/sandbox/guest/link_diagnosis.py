"""Says why a module can't run here, what it was built for, and how to build it instead.

Runs in the compile child, once for each module. What it finds goes with the module's summary, so
that a job is refused before anything else of it is looked at, and costs no process.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from wasmtime import Func, Linker, Store, WasmtimeError, component

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.module_types import FunctionType, Import, ModuleSummary
from wasmdrop.protocol.outcome import Code, bounded_text
from wasmdrop.protocol.text import one_line
from wasmdrop.sandbox.guest.custom_sections import Envelope
from wasmdrop.sandbox.guest.engine import Runtime
from wasmdrop.sandbox.guest.toolchains import KINDS, OBJECT_FILE, THREADS, Kind

__all__ = ["diagnosed", "diagnosed_component", "explained_refusal", "refuse_object_file"]

#: Modules that a message lists, names of each, and characters of a name or a type.
_MODULES_LISTED: Final = 8
_NAMES_LISTED: Final = 12
_SHOWN: Final = 48

#: Characters of each part of an import that patterns are held against.
_MATCHED: Final = 200

#: What of the component model's imports the daemon has. It serves to name those that are missing;
#: whether any is missing, the linker says.
_PROVIDED: Final = re.compile(r"wasi:(?:cli|clocks|filesystem|io|random|sockets)/.*@0\.2\.\d+")

#: With a limit of no instances, the linker checks all imports and then ends before any code runs.
_CHECKED: Final = "instance count too high"


def refuse_object_file(summary: ModuleSummary, envelope: Envelope) -> None:
    """Raise ``RefusedError`` with ``INVALID_MODULE`` for what is not linked yet.

    It has symbols for the linker, and no memory: the linker defines that, or imports ``memory``.
    """
    has_memory = summary.memory_count > 0 or any(
        entry.kind == "memory" and entry.name != "__linear_memory" for entry in summary.imports
    )
    if envelope.is_relocatable and not has_memory:
        raise RefusedError(Code.INVALID_MODULE, _sentence(OBJECT_FILE, envelope))


def diagnosed(summary: ModuleSummary, envelope: Envelope, runtime: Runtime) -> ModuleSummary:
    """Return a core module's summary with what is not provided, and why it can't be linked."""
    store = Store(runtime.engine)
    imports = []
    missing: dict[str, list[str]] = {}
    for entry in summary.imports:
        provision = _provision(runtime.linker, store, entry)
        imports.append(msgspec.structs.replace(entry, provided=provision == entry.type))
        if provision != entry.type:
            shown = _shown(entry, provision)
            missing.setdefault(one_line(entry.module, _SHOWN), []).append(shown)
    return _with_error(summary, imports, envelope, missing)


def diagnosed_component(
    summary: ModuleSummary, envelope: Envelope, runtime: Runtime, compiled: component.Component
) -> ModuleSummary:
    """Return a component's summary with what is not provided, and why it can't be linked."""
    text = _refusal_of_linker(compiled, runtime)
    imports = [
        msgspec.structs.replace(entry, provided=not text or _is_provided(entry, text))
        for entry in summary.imports
    ]
    missing = [one_line(entry.module, 2 * _SHOWN) for entry in imports if not entry.provided]
    by_kind = {"the component": missing} if missing else {}
    return _with_error(summary, imports, envelope, by_kind, text)


def explained_refusal(text: str, envelope: Envelope) -> str:
    """Return a message for what the compiler refuses with ``text``."""
    for kind in KINDS:
        if kind.refusal is not None and kind.refusal.search(text):
            return bounded_text(f"{_sentence(kind, envelope)}\n{text.strip()}")
    return bounded_text(text)


def _provision(linker: Linker, store: Store, entry: Import) -> str | None:
    """Return the type of what the linker has by an import's name; None if that is nothing."""
    try:
        found = linker.get(store, entry.module, entry.name)
    except WasmtimeError:
        return None
    assert isinstance(found, Func)  # noqa: S101 - WASI consists of functions
    form = found.type(store)
    return str(FunctionType(tuple(map(str, form.params)), tuple(map(str, form.results))))


def _refusal_of_linker(compiled: component.Component, runtime: Runtime) -> str:
    """Return what the linker says of imports that it can't provide; empty if there are none."""
    store = Store(runtime.engine)
    store.set_limits(instances=0)
    try:
        runtime.component_linker.instantiate(store, compiled)
    except WasmtimeError as error:
        text = str(error).strip()
        return "" if _CHECKED in text else text
    return ""


def _is_provided(entry: Import, text: str) -> bool:
    """Whether a component's import is provided, if the linker refuses one of them with ``text``."""
    return _PROVIDED.fullmatch(entry.module) is not None and f"`{entry.module}`" not in text


def _with_error(
    summary: ModuleSummary,
    imports: Sequence[Import],
    envelope: Envelope,
    missing: dict[str, list[str]],
    text: str = "",
) -> ModuleSummary:
    kind = _kind_of([entry for entry in imports if not entry.provided])
    if kind is None and summary.has_shared_memory:
        kind = THREADS
    if kind is None and text:
        kind = KINDS[-1]
    return msgspec.structs.replace(
        summary,
        imports=tuple(imports),
        producers=envelope.producers,
        link_error="" if kind is None else _link_error(kind, envelope, missing, text),
    )


def _shown(entry: Import, provision: str | None) -> str:
    """Return an import for a message, with its kind or types if they are what is wrong."""
    name = one_line(entry.name, _SHOWN)
    if provision is not None:
        return f"{name} (imported as {one_line(entry.type, _SHOWN)}, provided as {provision})"
    return name if entry.kind == "func" else f"{name} (a {entry.kind})"


def _kind_of(missing: Sequence[Import]) -> Kind | None:
    """Return the first kind that imports one of these; None if there are none."""
    texts = [_text_of(entry) for entry in missing]
    for kind in KINDS:
        if kind.imports is not None and any(map(kind.imports.match, texts)):
            return kind
    return None


def _text_of(entry: Import) -> str:
    parts = (entry.module, entry.name, entry.type) if entry.type else (entry.module,)
    return " ".join(part[:_MATCHED] for part in parts)


def _link_error(kind: Kind, envelope: Envelope, missing: dict[str, list[str]], text: str) -> str:
    """Return a message that names ``kind``, and what is ``missing`` by the module it comes from."""
    lines = [f"the module can't be linked: {_sentence(kind, envelope)}"]
    if missing:
        lines.append(f"imports that are not provided ({sum(map(len, missing.values()))}):")
    for module, names in [*missing.items()][:_MODULES_LISTED]:
        shown = ", ".join(names[:_NAMES_LISTED])
        more = f" and {len(names) - _NAMES_LISTED} more" if len(names) > _NAMES_LISTED else ""
        lines.append(f"  {module}: {shown}{more}")
    if len(missing) > _MODULES_LISTED:
        lines.append(f"  and those of {len(missing) - _MODULES_LISTED} more modules")
    return bounded_text("\n".join(filter(None, (*lines, text))))


def _sentence(kind: Kind, envelope: Envelope) -> str:
    made = f"\nmade with {', '.join(envelope.producers)}" if envelope.producers else ""
    return f"it is {kind.what}; {kind.remedy}{made}"
