"""A producer that records its drops, and the expected outcome of each version.

Every version has a number of its own, so that a result line or a marker identifies its version. The
result of a module depends on the module's own number, so that a result identifies its module too.
"""

import contextlib
import hashlib
import itertools
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from wasmtime import wat2wasm

#: Returns twice the number plus the module's own, after some work, so that a kill hits running
#: jobs.
_MODULE: Final = """
(module
  (func (export "run") (param $number i64) (param $turns i64) (result i64)
    (loop $again
      (local.set $turns (i64.sub (local.get $turns) (i64.const 1)))
      (br_if $again (i64.gt_s (local.get $turns) (i64.const 0))))
    (i64.add (i64.mul (local.get $number) (i64.const 2)) (i64.const {addend})))
  (func (export "trap") (param i64 i64) unreachable))
"""

#: The same. With one turn it writes a file in a directory and keeps the input file `in`, with more
#: it leaves no files.
_KEEPER: Final = """
(module
  (import "wasi_snapshot_preview1" "path_create_directory"
    (func $mkdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file"
    (func $unlink (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "out") (data (i32.const 80) "out/empty") (data (i32.const 96) "in")
  (func $need (param $errno i32) (if (local.get $errno) (then unreachable)))
  (func (export "run") (param $number i64) (param $turns i64) (result i64)
    (if (i64.eq (local.get $turns) (i64.const 1))
      (then
        (call $need (call $mkdir (i32.const 3) (i32.const 64) (i32.const 3)))
        (call $need (call $open (i32.const 3) (i32.const 0) (i32.const 80) (i32.const 9)
          (i32.const 1) (i64.const 0x40) (i64.const 0) (i32.const 0) (i32.const 32))))
      (else (call $need (call $unlink (i32.const 3) (i32.const 96) (i32.const 2)))))
    (i64.add (i64.mul (local.get $number) (i64.const 2)) (i64.const {addend})))
  (func (export "trap") (param i64 i64) unreachable))
"""


def module_of(addend: int, *, keeps_files: bool = False) -> bytes:
    """Return a module that computes twice its argument plus ``addend``."""
    return bytes(wat2wasm((_KEEPER if keeps_files else _MODULE).format(addend=addend)))


@dataclass(frozen=True)
class Version:
    """One version of an input, and its expected outcome."""

    number: int
    data: bytes
    code: str = "ok"
    names_module: bool = True
    """Whether it names its module, so that drops of others do not rerun it."""
    output: tuple[tuple[str, str], ...] = ()
    """The files that its job must leave, by path, with their digests."""

    @property
    def sha256(self) -> str:
        """The digest of the bytes in hex."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass
class SlotRecord:
    """The history of one slot's input."""

    versions: list[Version] = field(default_factory=list)
    is_present: bool = False
    """Whether the last version still exists. One that was removed may not have been read."""
    cancellable: int = 0
    """How many of its versions, from the first on, may be cancelled because the input was removed
    or renamed away, or because there was a cancel file."""
    reruns: int = 0
    """Drops of modules that rerun the slot."""
    own_module: str | None = None
    """The digest of the module that the slot must have run last, if known."""


class Producer:
    """Drops, replaces, removes and renames inputs and modules below two directories."""

    def __init__(self, shared: Path, wasm: Path) -> None:
        self.shared = shared
        self.wasm = wasm
        self.slots: dict[str, SlotRecord] = {}
        """By the name of the input below the shared directory."""
        self.addends: dict[str, int] = {}
        """The number that a module adds, by its digest."""
        self.requested: set[str] = set()
        """Jobs that the daemon was asked to cancel."""
        self.cancelled: set[str] = set()
        """Jobs whose cancellation it confirmed."""
        self.loses_inputs = False
        """Whether the daemon moves or removes inputs that are done."""
        self.decided_codes = {"cancelled"}
        """Codes of jobs that may end without being run."""
        self._numbers = itertools.count(1)

    def next_number(self) -> int:
        """Return a number that no version and no module has."""
        return next(self._numbers)

    def version(
        self,
        *,
        module: str | None = "m",
        code: str = "ok",
        turns: int = 1,
        padding: int = 0,
        files: dict[str, str] | None = None,
    ) -> Version:
        """Return a new version whose job ends with ``code``."""
        number = next(self._numbers)
        if code == "invalid-input":
            return Version(number, f'{{"number": {number}'.encode(), code, names_module=False)
        content: dict[str, Any] = {
            "entry": "trap" if code == "trap" else "run",
            "args": [number, turns],
        }
        if module is not None:
            content["module"] = module
        if files is not None:
            content["files"] = files
        if padding:
            content["env"] = {"PADDING": "x" * padding}
        return Version(number, json.dumps(content).encode(), code, module is not None)

    def drop(self, name: str, version: Version) -> None:
        """Write a version to a temporary file and rename it."""
        record = self.slots.setdefault(name, SlotRecord())
        _place(self.shared / name, version.data)
        record.versions.append(version)
        record.is_present = True

    def drop_again(self, name: str) -> None:
        """Drop the present bytes once more."""
        self.drop(name, self.slots[name].versions[-1])

    def remove(self, name: str) -> None:
        """Remove an input."""
        (self.shared / name).unlink()
        self._note_gone(self.slots[name])

    def rename(self, name: str, other: str) -> None:
        """Rename an input, which is a drop at its new name."""
        target = self.slots.setdefault(other, SlotRecord())
        (self.shared / other).parent.mkdir(parents=True, exist_ok=True)
        (self.shared / name).rename(self.shared / other)
        self._note_gone(self.slots[name])
        target.versions.append(self.slots[name].versions[-1])
        target.is_present = True

    def cancel(self, name: str) -> None:
        """Drop a cancel file."""
        record = self.slots[name]
        record.cancellable = len(record.versions)
        _place(self.shared / f"{name}.cancel", b"")

    @staticmethod
    def _note_gone(record: SlotRecord) -> None:
        record.is_present = False
        record.cancellable = len(record.versions)

    def rewrite(self, name: str, version: Version) -> None:
        """Overwrite the present version in place."""
        record = self.slots[name]
        record.versions.append(version)
        (self.shared / name).write_bytes(version.data)

    def swap(self, directory: str, changed: dict[str, Version]) -> None:
        """Replace the content of a volume as Kubernetes does: only changed inputs are drops.

        ``changed`` is by the names of the inputs below the shared directory.
        """
        volume = self.shared / directory
        new = volume / f"..{next(self._numbers)}"
        new.mkdir(parents=True)
        old = (volume / "..data").resolve() if (volume / "..data").exists() else None
        if old is not None:
            shutil.copytree(old, new, dirs_exist_ok=True)
        for name, version in changed.items():
            (new / Path(name).name).write_bytes(version.data)
            record = self.slots.setdefault(name, SlotRecord(is_present=True))
            record.versions.append(version)
        (volume / "..tmp").symlink_to(new.name)
        (volume / "..tmp").rename(volume / "..data")
        for name in changed:
            if not (self.shared / name).is_symlink():
                (self.shared / name).symlink_to(f"..data/{Path(name).name}")
        if old is not None:
            shutil.rmtree(old)

    def module(self, path: Path, *slots: str, keeps_files: bool = False) -> None:
        """Drop a new module, which reruns these slots."""
        addend = next(self._numbers)
        data = module_of(addend, keeps_files=keeps_files)
        self.add_module(path, data, addend)
        for name in slots:
            record = self.slots.setdefault(name, SlotRecord())
            record.reruns += 1
            record.own_module = hashlib.sha256(data).hexdigest()

    def add_module(self, path: Path, data: bytes, addend: int) -> None:
        """Drop a module that adds ``addend``."""
        self.addends[hashlib.sha256(data).hexdigest()] = addend
        _place(path, data)


def _place(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.dropping")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
