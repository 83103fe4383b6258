"""Crash points: every call in the source of the package that changes files.

Covers the daemon's own process and its delivery workers, not its other children, which write
nothing durable, and not the other commands. A new write is a new point by itself: a test must reach
it, or ``test_crash_points`` must say why none can.
"""

import ast
import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import wasmdrop
from tests.support.durability import dying

_PACKAGE: Final = Path(wasmdrop.__file__).parent

#: Code that the daemon does not run, or runs in children that write nothing durable.
_ELSEWHERE: Final = (
    "cli/",
    "client/",
    "fetch/",
    "fleet/worker/",
    "service/doctor/",
    "sandbox/guest/compiler.py",
    "sandbox/guest/core_module.py",
    "sandbox/guest/wasi_setup.py",
    "sandbox/guest/channel.py",
    "sandbox/guest/fork_server.py",
    "sandbox/guest/native_zygote.py",
    "system/descriptors.py",
    "system/slot_directory.py",
)

#: Writes that leave nothing: to a file without a name, in memory, or of a directory that the next
#: start removes in any case.
_NOTHING_LASTS: Final = {
    "service.health.writability._why_not_writable",
    "sandbox.host.job_directory.JobDirectoryFactory._evict",
    "intake.watcher._LivenessProbe.send",
    "fleet.bodies.output_files._Writer.write",
    "fleet.bodies.output_files._Writer._begin",
}

_OF_OS: Final = {*dying.WRAPPED, "write"}
#: Functions of ``system.descriptors``, which ``dying`` attributes to their callers.
_OF_OURS: Final = {"write_all"}
_OF_PATHS: Final = {"hardlink_to", "mkdir", "rename", "rmdir", "unlink", "write_bytes"}


@dataclass(frozen=True)
class Point:
    """One call in the source."""

    file: str
    """Below the package."""
    first_line: int
    last_line: int
    name: str
    """Function and call, which do not change with each edit of the source."""

    def __str__(self) -> str:
        return self.name


def kill_plan(point: Point, moment: str, turn: int = 1, **fields: Any) -> str:
    """Return the plan, for ``dying``, of a kill at a call of a point; see :class:`KillPlan`."""
    place = point.file, point.first_line, point.last_line
    plan = dying.KillPlan(*place, moment, turn, **fields)
    return json.dumps(dataclasses.asdict(plan))


def find_points(package: Path = _PACKAGE) -> list[Point]:
    """Return every call that writes, in the order of the source."""
    points = []
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package).as_posix()
        if not file.startswith(_ELSEWHERE):
            points += _Finder(file).find(path)
    return points


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str) -> None:
        self._file = file
        self._where = [file.removesuffix(".py").replace("/", ".")]
        self._points: list[Point] = []
        self._seen = Counter[str]()

    def find(self, path: Path) -> list[Point]:
        self.visit(ast.parse(path.read_text()))
        return self._points

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._enter(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._enter(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._enter(node)

    def visit_Call(self, node: ast.Call) -> None:
        what = _what_is_written(node)
        where = ".".join(self._where)
        if what is not None and where not in _NOTHING_LASTS:
            name = f"{where}:{what}"
            self._seen[name] += 1
            if self._seen[name] > 1:
                name += f"-{self._seen[name]}"
            last_line = node.end_lineno or node.lineno
            self._points.append(Point(self._file, node.lineno, last_line, name))
        self.generic_visit(node)

    def _enter(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._where.append(node.name)
        self.generic_visit(node)
        self._where.pop()


def _what_is_written(node: ast.Call) -> str | None:
    """Return the name of the function with which a call writes; None if it does not write."""
    if isinstance(node.func, ast.Name) and node.func.id in _OF_OURS:
        return node.func.id
    if not isinstance(node.func, ast.Attribute):
        return None
    name, owner = node.func.attr, node.func.value
    owner_name = owner.id if isinstance(owner, ast.Name) else None
    if owner_name == "os":
        return name if name in _OF_OS else None
    if owner_name == "shutil":
        return name
    if name in {"execute", "executescript"}:
        return "commit" if "COMMIT" in ast.unparse(node) else None
    # A string's `replace` has two arguments, a path's has one.
    is_path_replaced = name == "replace" and len(node.args) == 1 and not node.keywords
    is_changed = name in _OF_PATHS or is_path_replaced
    return name if is_changed and owner_name != "self" else None
