"""A disk that forgets: the possible states of a traced run after a power cut at any moment.

The model assumes what POSIX guarantees and no more. Bytes of a file are durable at the end of an
fsync(2) of the file that began after the write, a name at the end of an fsync of its directory. Any
other change may survive or not, each by itself: a rename without the bytes, the second half of a
write without the first.

Files that the producer dropped are restored as hard links to the same files, because the journal
identifies them by inode. SQLite's shared-memory file is not restored: SQLite makes it anew.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from tests.support.durability.trace import Call

_UMASK: Final = 0o022


@dataclass(eq=False)
class Change:
    """A change of one file's bytes or one directory's names."""

    at: int
    """When it was made. ``durable_at``: from when on it is durable."""
    durable_at: float = math.inf


@dataclass(eq=False)
class _Bytes(Change):
    offset: int = 0
    data: bytes | None = None
    """None truncates or extends the file to ``offset`` bytes."""


@dataclass(eq=False)
class _Names(Change):
    names: dict[str, "_Node | None"] = field(default_factory=dict)


@dataclass(eq=False)
class _Node:
    is_directory: bool
    mode: int
    given: Path | None = None
    changes: list[Change] = field(default_factory=list)
    size: int = 0


@dataclass(frozen=True)
class Given:
    """A file that the producer dropped."""

    at: int
    """Its position in the order of all calls."""
    path: str
    """Below the base."""
    file: Path
    """The same file under another, permanent name."""


Keep = Callable[[Change], bool]
#: Path below the base: mode, and the bytes of a file, the file that was given, or None.
Tree = dict[str, tuple[int, bytes | Path | None]]


class Disk:
    """The directories ``shared`` and ``state`` below ``base``."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._root = _Node(is_directory=True, mode=0o755)
        self._now: dict[str, _Node] = {"": self._root}
        self._make("shared", -1, _Node(is_directory=True, mode=0o755))
        self._root.changes[0].durable_at = -1

    def replay(self, calls: Iterable[Call], given: list[Given]) -> None:
        """Apply all calls of a run."""
        coming = list(given)
        for call in calls:
            while coming and coming[0].at < call.ended:
                one = coming.pop(0)
                self._make(one.path, one.at, _Node(False, 0o644, given=one.file))
                self._parent(one.path).changes[-1].durable_at = one.at
            handler = getattr(self, f"_{call.name}", None)
            assert handler is not None or not self._concerns(call), call
            if handler is not None:
                handler(call)

    def moments(self) -> list[int]:
        """Return all moments at which something changed or became durable."""
        found = {0}
        for node in self._all_nodes():
            for change in node.changes:
                found.add(change.at + 1)
                if 0 < change.durable_at < math.inf:
                    found.add(int(change.durable_at))
        return sorted(found)

    def left_at(self, moment: int, chance: Callable[[Change], bool]) -> Tree:
        """Return the state after a cut at ``moment``; ``chance`` chooses the unsynced changes."""

        def keep(change: Change) -> bool:
            return change.at < moment and (change.durable_at <= moment or chance(change))

        tree: Tree = {}
        pending = [("", self._root)]
        while pending:
            path, directory = pending.pop()
            for name, node in _names(directory, keep).items():
                below = f"{path}/{name}".lstrip("/")
                if not node.is_directory:
                    tree[below] = (node.mode, node.given or _bytes(node, keep))
                elif below not in tree:  # two names of one directory, half renamed
                    tree[below] = (node.mode, None)
                    pending.append((below, node))
        return tree

    @staticmethod
    def is_name(change: Change) -> bool:
        """Whether a change is one of names."""
        return isinstance(change, _Names)

    def lay(self, tree: Tree) -> None:
        """Restore the directories below the base to ``tree``."""
        for name in ("shared", "state"):
            shutil.rmtree(self._base / name, ignore_errors=True)
        for below in sorted(tree):
            mode, content = tree[below]
            path = self._base / below
            if content is None:
                path.mkdir()
            elif isinstance(content, Path):
                os.link(content, path)
                continue
            else:
                path.write_bytes(content)
            path.chmod(mode)

    # System calls

    def _openat(self, call: Call) -> None:
        path = self._at(call, 0)
        if path is None or "O_CREAT" not in call.args[2]:
            assert path is None or "O_TRUNC" not in call.args[2], call
            return
        if path not in self._now:
            mode = call.number(3) & ~_UMASK
            self._make(path, call.ended, _Node(is_directory=False, mode=mode))
        assert "O_TRUNC" not in call.args[2], call

    def _write(self, call: Call) -> None:
        node = self._open_node(call)
        if node is not None:  # every writer appends, or starts with an empty file
            self._change(node, call, node.size, call.data(1)[: call.returned])

    def _pwrite64(self, call: Call) -> None:
        node = self._open_node(call)
        if node is not None:
            self._change(node, call, call.number(3), call.data(1)[: call.returned])

    def _ftruncate(self, call: Call) -> None:
        node = self._open_node(call)
        if node is not None:
            node.changes.append(_Bytes(call.ended, offset=call.number(1)))
            node.size = call.number(1)

    def _fsync(self, call: Call) -> None:
        node = self._open_node(call)
        if node is not None:
            for change in node.changes:
                if change.at < call.began:
                    change.durable_at = min(change.durable_at, call.ended)

    _fdatasync = _fsync

    def _fchmod(self, call: Call) -> None:
        node = self._open_node(call)
        if node is not None:
            node.mode = call.number(1)

    def _mkdir(self, call: Call) -> None:
        path = self._below(os.fsdecode(call.data(0)))
        if path is not None:
            mode = call.number(1) & ~_UMASK
            self._make(path, call.ended, _Node(is_directory=True, mode=mode))

    def _mkdirat(self, call: Call) -> None:
        path = self._at(call, 0)
        if path is not None:
            mode = call.number(2) & ~_UMASK
            self._make(path, call.ended, _Node(is_directory=True, mode=mode))

    def _unlink(self, call: Call) -> None:
        self._forget(self._below(os.fsdecode(call.data(0))), call.ended)

    _rmdir = _unlink

    def _unlinkat(self, call: Call) -> None:
        self._forget(self._at(call, 0), call.ended)

    def _rename(self, call: Call) -> None:
        old, new = (self._below(os.fsdecode(call.data(index))) for index in (0, 1))
        self._move(old, new, call.ended)

    def _renameat(self, call: Call) -> None:
        self._move(self._at(call, 0), self._at(call, 2), call.ended)

    _renameat2 = _renameat

    # Names

    def _below(self, path: str) -> str | None:
        prefix = f"{self._base}/"
        below = path.removeprefix(prefix)
        first = PurePosixPath(below).parts[:1]
        is_ours = path.startswith(prefix) and first in {("shared",), ("state",)}
        return below if is_ours and not below.endswith("-shm") else None

    def _at(self, call: Call, index: int) -> str | None:
        """Return the path of a name in the directory of a descriptor."""
        name = os.fsdecode(call.data(index + 1))
        return self._below(os.path.join(call.path(index), name))  # noqa: PTH118 - plain text

    def _open_node(self, call: Call) -> _Node | None:
        if call.path(0) == str(self._base):
            return self._root
        path = self._below(call.path(0))
        return None if path is None else self._now.get(path)

    def _concerns(self, call: Call) -> bool:
        return any(f"{self._base}/s".encode().hex() in arg.replace("\\x", "") for arg in call.args)

    def _parent(self, path: str) -> _Node:
        return self._now[path.rpartition("/")[0]]

    def _make(self, path: str, at: int, node: _Node) -> None:
        self._parent(path).changes.append(_Names(at, names={path.rpartition("/")[2]: node}))
        self._now[path] = node

    def _forget(self, path: str | None, at: int) -> None:
        if path is not None and self._now.pop(path, None) is not None:
            self._parent(path).changes.append(_Names(at, names={path.rpartition("/")[2]: None}))

    def _move(self, old: str | None, new: str | None, at: int) -> None:
        assert (old is None) == (new is None), "a rename out of, or into, what is looked at"
        if old is None or new is None:
            return
        node = self._now.pop(old)
        assert not node.is_directory
        assert self._parent(old) is self._parent(new)
        names = {old.rpartition("/")[2]: None, new.rpartition("/")[2]: node}
        self._parent(new).changes.append(_Names(at, names=names))
        self._now[new] = node

    @staticmethod
    def _change(node: _Node, call: Call, offset: int, data: bytes) -> None:
        node.changes.append(_Bytes(call.ended, offset=offset, data=data))
        node.size = max(node.size, offset + len(data))

    def _all_nodes(self) -> set[_Node]:
        found = {self._root}
        pending = [self._root]
        while pending:
            for change in pending.pop().changes:
                if isinstance(change, _Names):
                    new = {node for node in change.names.values() if node is not None} - found
                    found |= new
                    pending += new
        return found


def _names(node: _Node, keep: Keep) -> dict[str, _Node]:
    found: dict[str, _Node | None] = {}
    for change in node.changes:
        if isinstance(change, _Names) and keep(change):
            found |= change.names
    return {name: its for name, its in found.items() if its is not None}


def _bytes(node: _Node, keep: Keep) -> bytes:
    data = bytearray()
    for change in node.changes:
        if isinstance(change, _Bytes) and keep(change):
            end = change.offset + len(change.data or b"")
            data += bytes(max(0, end - len(data)))
            if change.data is None:
                del data[change.offset :]
            else:
                data[change.offset : end] = change.data
    return bytes(data)
