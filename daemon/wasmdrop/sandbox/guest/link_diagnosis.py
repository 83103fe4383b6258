"""Diagnose why a module can't be linked, what it was built for, and how to build it instead.

Runs in the compile process, once per module. The diagnosis is part of the module's summary, so the
daemon refuses a job of such a module without starting a process.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from wasmtime import Func, Linker, Store, WasmtimeError, component

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.module_types import FunctionType, Import, ModuleSummary
from wasmdrop.protocol.outcome import Code
from wasmdrop.protocol.text import bounded_text, one_line
from wasmdrop.sandbox.guest.custom_sections import CustomSections
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.guest.toolchains import FOREIGN_MODULES, OBJECT_FILE, THREADS, ForeignModule

#: Modules in a message, names of each module, and characters of a name or type.
_MODULES_LISTED: Final = 8
_NAMES_LISTED: Final = 12
_SHOWN: Final = 48

#: Characters of each part of an import that are matched against patterns.
_MATCHED: Final = 200

#: The imports that the daemon provides to components. Used only to name the missing ones; the
#: linker decides whether any is missing.
_PROVIDED: Final = re.compile(r"wasi:(?:cli|clocks|filesystem|io|random|sockets)/.*@0\.2\.\d+")

#: The linker's message if it found all imports and then reached the limit of no instances, before
#: any code ran.
_ALL_FOUND: Final = "instance count too high"


def refuse_object_file(summary: ModuleSummary, sections: CustomSections) -> None:
    """Raise ``RefusedError`` with ``INVALID_MODULE`` if a module is an object file.

    An object file has symbols for the linker, but no memory, which the linker adds.
    """
    has_memory = summary.memory_count > 0 or any(
        entry.kind == "memory" and entry.name != "__linear_memory" for entry in summary.imports
    )
    if sections.is_relocatable and not has_memory:
        raise RefusedError(Code.INVALID_MODULE, _sentence(OBJECT_FILE, sections))


def diagnosed(summary: ModuleSummary, sections: CustomSections, engine: Engine) -> ModuleSummary:
    """Return a core module's summary with its missing imports and its link error, if any."""
    store = Store(engine.wasmtime_engine)
    imports = []
    missing: dict[str, list[str]] = {}
    for entry in summary.imports:
        provision = _provision(engine.linker, store, entry)
        imports.append(msgspec.structs.replace(entry, provided=provision == entry.type))
        if provision != entry.type:
            shown = _shown(entry, provision)
            missing.setdefault(one_line(entry.module, _SHOWN), []).append(shown)
    return _with_error(summary, imports, sections, missing)


def diagnosed_component(
    summary: ModuleSummary, sections: CustomSections, engine: Engine, compiled: component.Component
) -> ModuleSummary:
    """Return a component's summary with its missing imports and its link error, if any."""
    text = _refusal_of_linker(compiled, engine)
    imports = [
        msgspec.structs.replace(entry, provided=not text or _is_provided(entry, text))
        for entry in summary.imports
    ]
    missing = [one_line(entry.module, 2 * _SHOWN) for entry in imports if not entry.provided]
    by_kind = {"the component": missing} if missing else {}
    return _with_error(summary, imports, sections, by_kind, text)


def explained_refusal(text: str, sections: CustomSections) -> str:
    """Return the message for a module that the compiler refuses with ``text``."""
    for kind in FOREIGN_MODULES:
        if kind.refusal is not None and kind.refusal.search(text):
            return bounded_text(f"{_sentence(kind, sections)}\n{text.strip()}")
    return bounded_text(text)


def _provision(linker: Linker, store: Store, entry: Import) -> str | None:
    """Return the type that the linker provides for an import's name; None if it has none."""
    try:
        found = linker.get(store, entry.module, entry.name)
    except WasmtimeError:
        return None
    assert isinstance(found, Func)  # noqa: S101 - WASI consists of functions
    form = found.type(store)
    return str(FunctionType(tuple(map(str, form.params)), tuple(map(str, form.results))))


def _refusal_of_linker(compiled: component.Component, engine: Engine) -> str:
    """Return the linker's message about missing imports; empty if there are none."""
    store = Store(engine.wasmtime_engine)
    store.set_limits(instances=0)
    try:
        engine.component_linker.instantiate(store, compiled)
    except WasmtimeError as error:
        text = str(error).strip()
        return "" if _ALL_FOUND in text else text
    return ""


def _is_provided(entry: Import, text: str) -> bool:
    """Return whether an import is provided, if the linker refused the component with ``text``."""
    return _PROVIDED.fullmatch(entry.module) is not None and f"`{entry.module}`" not in text


def _with_error(
    summary: ModuleSummary,
    imports: Sequence[Import],
    sections: CustomSections,
    missing: dict[str, list[str]],
    text: str = "",
) -> ModuleSummary:
    kind = _kind_of([entry for entry in imports if not entry.provided])
    if kind is None and summary.has_shared_memory:
        kind = THREADS
    if kind is None and text:
        kind = FOREIGN_MODULES[-1]
    return msgspec.structs.replace(
        summary,
        imports=tuple(imports),
        producers=sections.producers,
        link_error="" if kind is None else _link_error(kind, sections, missing, text),
    )


def _shown(entry: Import, provision: str | None) -> str:
    """Return an import for a message, with its kind or types if they are wrong."""
    name = one_line(entry.name, _SHOWN)
    if provision is not None:
        return f"{name} (imported as {one_line(entry.type, _SHOWN)}, provided as {provision})"
    return name if entry.kind == "func" else f"{name} (a {entry.kind})"


def _kind_of(missing: Sequence[Import]) -> ForeignModule | None:
    """Return the first entry that matches one of these imports; None if there are none."""
    texts = [_text_of(entry) for entry in missing]
    for kind in FOREIGN_MODULES:
        if kind.imports is not None and any(map(kind.imports.match, texts)):
            return kind
    return None


def _text_of(entry: Import) -> str:
    parts = (entry.module, entry.name, entry.type) if entry.type else (entry.module,)
    return " ".join(part[:_MATCHED] for part in parts)


def _link_error(
    kind: ForeignModule, sections: CustomSections, missing: dict[str, list[str]], text: str
) -> str:
    """Return a message with the kind of module and the missing imports by module."""
    lines = [f"the module can't be linked: {_sentence(kind, sections)}"]
    if missing:
        lines.append(f"imports that are not provided ({sum(map(len, missing.values()))}):")
    for module, names in [*missing.items()][:_MODULES_LISTED]:
        shown = ", ".join(names[:_NAMES_LISTED])
        more = f" and {len(names) - _NAMES_LISTED} more" if len(names) > _NAMES_LISTED else ""
        lines.append(f"  {module}: {shown}{more}")
    if len(missing) > _MODULES_LISTED:
        lines.append(f"  and those of {len(missing) - _MODULES_LISTED} more modules")
    return bounded_text("\n".join(filter(None, (*lines, text))))


def _sentence(kind: ForeignModule, sections: CustomSections) -> str:
    made = f"\nmade with {', '.join(sections.producers)}" if sections.producers else ""
    return f"it is {kind.what}; {kind.remedy}{made}"
