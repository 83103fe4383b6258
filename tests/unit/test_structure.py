"""The shape of the package: imports point one way, and wasmtime stays in the sandbox's children."""

import ast
from pathlib import Path

import pytest

import wasmdrop

PACKAGE = Path(wasmdrop.__file__).parent

#: Which level each module or subpackage is on; one may import from levels below its own, and within
#: its own only where it is the same subpackage or level 0 or 1.
LEVELS = {
    "__init__": 0,
    "budget": 0,
    "errors": 0,
    "job": 0,
    "jobuser": 0,
    "lifetime": 0,
    "limits": 0,
    "module": 0,
    "names": 0,
    "outcome": 0,
    "outlet": 0,
    "rights": 0,
    "scheduling": 0,
    "signals": 0,
    "suffixes": 0,
    "text": 0,
    "toolchains": 0,
    "turns": 0,
    "agenda": 1,
    "awaiting": 1,
    "beneath": 1,
    "claim": 2,
    "durable": 1,
    "entries": 1,
    "identity": 1,
    "interpreter": 1,
    "layout": 1,
    "log": 1,
    "marker": 1,
    "metrics": 1,
    "mounts": 1,
    "notify": 1,
    "private": 1,
    "report": 1,
    "schema": 1,
    "settings": 1,
    "slot_directory": 1,
    "stopping": 1,
    "strictjson": 1,
    "tree": 1,
    "values": 1,
    "looks": 2,
    "near_misses": 2,
    "walk": 1,
    "waits": 1,
    "wit": 1,
    "delivery": 2,
    "entry": 2,
    "history": 2,
    "intake": 2,
    "journal": 2,
    "sandbox": 2,
    "scan": 2,
    "storage": 2,
    "watch": 2,
    "dispatch": 3,
    "execution": 3,
    "health": 3,
    "housekeeping": 3,
    "module_drops": 3,
    "recovery": 3,
    "undelivered": 3,
    "watching": 3,
    "doctor": 4,
    "documents": 4,
    "service": 4,
    "__main__": 5,
    "cli": 5,
    "client": 5,
}

#: The child's side of the sandbox: what runs in a process that a guest may own.
CHILDS_SIDE = {
    "binary",
    "bpf",
    "compiler",
    "component",
    "component_relay",
    "confine",
    "determinism",
    "diagnosis",
    "ends",
    "envelope",
    "filebook",
    "filetype",
    "forking",
    "guest",
    "instructions",
    "landlock",
    "lent",
    "link",
    "lowering",
    "memories",
    "messages",
    "plain",
    "preview1",
    "preview2",
    "refusals",
    "resident",
    "runtime",
    "seccomp",
    "server",
    "shares",
    "template",
    "warmup",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Return the dotted name below the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(path: Path) -> set[str]:
    """Return every module that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module.startswith("wasmdrop"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top_of(dotted: str) -> str | None:
    """Return the module or subpackage of ours that an import names, if it is one."""
    parts = dotted.split(".")
    if parts[0] != "wasmdrop" or len(parts) == 1:
        return None
    return parts[1] if parts[1] in LEVELS else None


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    """A stage imports no other stage, and nothing imports what is above it."""
    own = name_of(path).split(".")[0]
    assert own in LEVELS, f"{own} has no level yet"
    for target in {top_of(dotted) for dotted in imports_of(path)} - {None, own}:
        assert target is not None
        within = LEVELS[own] == LEVELS[target] and LEVELS[own] in {0, 1, 3, 5}
        assert LEVELS[target] < LEVELS[own] or within, f"{name_of(path)} imports {target}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_childs_side_imports_wasmtime(path: Path) -> None:
    """The daemon's own process never loads what parses and runs modules."""
    name = name_of(path)
    is_childs = name.startswith("sandbox.") and name.split(".")[1] in CHILDS_SIDE
    uses = any(dotted.split(".")[0] == "wasmtime" for dotted in imports_of(path))
    assert is_childs or not uses


@pytest.mark.parametrize("name", sorted(CHILDS_SIDE))
def test_the_childs_side_knows_nothing_of_the_daemon(name: str) -> None:
    """What a guest may own has no journal, watcher or settings within reach."""
    for dotted in imports_of(PACKAGE / "sandbox" / f"{name}.py"):
        target = top_of(dotted)
        assert target is None or target == "sandbox" or LEVELS[target] == 0, dotted
        if target == "sandbox" and dotted.count(".") > 1:
            assert dotted.split(".")[2] in CHILDS_SIDE
