"""The meaning of paths: slots, modules, and ignored names."""

import errno
import os
from collections.abc import Iterator
from typing import Final

import msgspec

from wasmdrop.protocol.slot import CANCEL_SUFFIX, OUTPUT_SUFFIX, SLOT_NAME_RULE, Slot, result_stem
from wasmdrop.settings import Settings
from wasmdrop.system import openat2

MODULE_NAME: Final = "module.wasm"

_UNFINISHED: Final = ("~", ".tmp", ".part")
#: Output files are ignored, too: a guest must not be able to drop jobs.
_IGNORED: Final = (*_UNFINISHED, OUTPUT_SUFFIX)


class RootedPath(msgspec.Struct, frozen=True):
    """A path below a root, the directory that links on the way must not leave."""

    root: str
    relative: str

    @property
    def path(self) -> str:
        """The whole path."""
        return f"{self.root.rstrip('/')}/{self.relative}".rstrip("/") or "/"

    @property
    def depth(self) -> int:
        """Levels below the root."""
        return len(self.relative.split("/")) if self.relative else 0


def is_ignored(name: str) -> bool:
    """Return whether files and directories of this name are ignored."""
    return name.startswith(".") or name.endswith(_IGNORED)


class Layout:
    """The directories of one daemon and the meaning of the names in them."""

    def __init__(self, settings: Settings) -> None:
        self.shared_dir = str(settings.shared_dir)
        self.wasm_dir = str(settings.wasm_dir)
        self.wasm_path = str(settings.wasm_path)
        self._max_depth = settings.max_depth
        self._ready_suffix = settings.ready_suffix
        self.root_slot = self._root_slot(settings)
        #: Names that the operator chose.
        self._own_names = {os.path.basename(self.wasm_path), settings.input_path.name}  # noqa: PTH119
        suffixes = (self._ready_suffix, CANCEL_SUFFIX)
        self._own_names |= {name + suffix for name in self._own_names for suffix in suffixes}

    @staticmethod
    def _root_slot(settings: Settings) -> Slot:
        path = str(settings.input_path)
        shared = str(settings.shared_dir)
        below = os.path.relpath(path, shared)
        return Slot(
            key=path if below.startswith("..") else below,
            input_path=path,
            directory=str(settings.output_path.parent),
            stem=settings.output_path.stem,
            is_root=True,
        )

    def may_matter(self, name: str) -> bool:
        """Return whether a file of this name may be, or was meant to be, an input or a module.

        False for most files, because most are results.
        """
        folded = name.lower()
        return _is_like_input(folded) or folded.endswith(".wasm") or name in self._own_names

    def slot_of(self, path: str) -> Slot | None:
        """Return the slot whose input is at ``path``, if there is one."""
        if path == self.root_slot.input_path:
            return self.root_slot
        directory, name = os.path.split(path)
        stem = result_stem(name)
        if stem is None or not self._is_slot_directory(directory):
            return None
        return Slot(
            key=_below(path, self.shared_dir),
            input_path=path,
            directory=directory,
            stem=stem,
        )

    def input_announced_by(self, path: str) -> str | None:
        """Return the path of the input whose ready file is at ``path``, if that is a ready file."""
        suffix = self._ready_suffix
        if not suffix or not path.endswith(suffix):
            return None
        return path[: -len(suffix)]

    def slot_cancelled_by(self, path: str) -> Slot | None:
        """Return the slot whose cancel file is at ``path``, if that is a cancel file."""
        if not path.endswith(CANCEL_SUFFIX):
            return None
        return self.slot_of(path[: -len(CANCEL_SUFFIX)])

    @property
    def announces_inputs(self) -> bool:
        """Whether a ready file says that an input is complete."""
        return bool(self._ready_suffix)

    def is_ready(self, slot: Slot) -> bool:
        """Return whether the slot's input has its ready file, or needs none."""
        return not self._ready_suffix or self._exists(slot.input_path + self._ready_suffix)

    def is_module(self, path: str) -> bool:
        """Return whether a module at ``path`` could be that of a job."""
        if path == self.wasm_path:
            return True
        directory, name = os.path.split(path)
        if name == MODULE_NAME and self._is_slot_directory(directory):
            return True
        return name.endswith(".wasm") and _is_below(path, self.wasm_dir)

    def why_ignored(self, path: str) -> str | None:
        """Return why a file that was probably meant to be an input or a module is ignored.

        Return None for inputs, modules, and files of any other name.
        """
        directory, name = os.path.split(path)
        folded = name.lower()
        is_input = _is_like_input(folded) and ".json" in folded
        if is_ignored(name) or not (is_input or folded.endswith(".wasm")):
            return None
        if self.slot_of(self.input_announced_by(path) or path) or self.is_module(path):
            return None
        if self.slot_cancelled_by(path):
            return None
        if not is_input and _is_below(path, self.wasm_dir):
            return "the name of a module ends in .wasm, in lower case"
        if not _is_below(path, self.shared_dir):
            return "inputs are read from the shared directory alone" if is_input else None
        if not self._is_slot_directory(directory):
            is_hidden = any(map(is_ignored, _below(directory, self.shared_dir).split("/")))
            return None if is_hidden else self.why_too_deep(directory)
        if is_input:
            return f"an input is called input.json or input-NAME.json; NAME has {SLOT_NAME_RULE}"
        return "only module.wasm is a module here; others belong in the wasm directory"

    def why_too_deep(self, directory: str) -> str | None:
        """Return why ``directory`` is not scanned; None outside the shared directory."""
        if not _is_below(directory, self.shared_dir):
            return None
        return (
            f"it is more than {self._max_depth} levels below the shared directory: raise"
            " WASMDROP_MAX_DEPTH"
        )

    def rooted(self, path: str) -> RootedPath:
        """Return ``path`` below the shared or the wasm directory, else below its own directory."""
        for root in (self.shared_dir, self.wasm_dir):
            if path == root or _is_below(path, root):
                return RootedPath(root, _below(path, root))
        return RootedPath(*os.path.split(path))

    def module_places(self, slot: Slot, reference: str | None) -> Iterator[RootedPath]:
        """Yield where the module of a job may be, in order of precedence.

        ``reference`` is the input's ``module``, unless it is a digest.
        """
        if reference is not None:
            yield RootedPath(self.wasm_dir, reference)
            if not reference.endswith(".wasm"):
                yield RootedPath(self.wasm_dir, f"{reference}.wasm")
            return
        own = os.path.join(os.path.dirname(slot.input_path), MODULE_NAME)  # noqa: PTH118, PTH120
        if self._is_slot_directory(os.path.dirname(own)):  # noqa: PTH120
            yield self.rooted(own)
        yield RootedPath(*os.path.split(self.wasm_path))

    def has_input(self, slot: Slot) -> bool:
        """Return whether anything is at the path of the slot's input."""
        return self._exists(slot.input_path)

    def slots_in(self, directory: str) -> list[Slot]:
        """Return the slots with an input in ``directory`` itself; none if it is behind a link."""
        rooted = self.rooted(directory)
        try:
            names = sorted(openat2.names_in(rooted.root, rooted.relative))
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                raise
            return []
        slots = (self.slot_of(f"{directory}/{name}") for name in names)
        return [slot for slot in slots if slot is not None]

    def _exists(self, path: str) -> bool:
        rooted = self.rooted(path)
        try:
            openat2.lstat(rooted.root, rooted.relative)
        except OSError:
            return False
        return True

    def _is_slot_directory(self, directory: str) -> bool:
        if directory == self.shared_dir:
            return True
        if not _is_below(directory, self.shared_dir):
            return False
        below = directory[len(self.shared_dir) :].strip("/").split("/")
        return len(below) <= self._max_depth and not any(is_ignored(name) for name in below)


def _is_like_input(folded: str) -> bool:
    return folded.startswith("input")


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")


def _below(path: str, directory: str) -> str:
    """Return what comes after ``directory``, which ``path`` is below."""
    return path[len(directory.rstrip("/")) :].lstrip("/")
