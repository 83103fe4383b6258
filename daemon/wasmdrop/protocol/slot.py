"""A slot: one input path with its result files beside it, and the files that a job is made of."""

import os
from typing import Self

import msgspec

__all__ = ["FileVersion", "FoundIn", "InputFile", "PinnedModule", "Slot"]


class FileVersion(msgspec.Struct, frozen=True, array_like=True):
    """What tells one version of a file from the next (stat(2)); times in nanoseconds."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the version that ``status`` describes."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class FoundIn(msgspec.Struct, frozen=True, array_like=True):
    """What tells the directory of an input from one that another user puts in its place."""

    device: int
    inode: int
    owner: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return what ``status`` tells of a directory."""
        return cls(status.st_dev, status.st_ino, status.st_uid)

    def may_be(self, other: "FoundIn") -> bool:
        """Whether it is that directory, be its owner changed meanwhile, or one of its owner."""
        return self.owner == other.owner or (self.device, self.inode) == (other.device, other.inode)


class Slot(msgspec.Struct, frozen=True):
    """One input path with its result files beside it."""

    key: str
    """Its name in the journal and in logs: the input's path below the shared directory."""
    input_path: str
    directory: str
    """Where the result files go."""
    stem: str
    """What their names begin with: ``result`` or ``result-NAME``."""
    is_root: bool = False
    """Whether this is the slot of ``INPUT_PATH``, which a drop of the default module runs."""
    found_in: FoundIn | None = None
    """The directory that the input was found in: nobody else's gets its results."""

    @property
    def place(self) -> tuple[str, str]:
        """Where the result files go: a directory that others can't replace, and the path below."""
        root = self.input_path.removesuffix(f"/{self.key}")
        if root != self.input_path and self.directory.startswith(f"{root}/"):
            return root, self.directory[len(root) + 1 :]
        return self.directory, ""  # the shared directory itself, or that of OUTPUT_PATH


class InputFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """The input of a job, as it was when it was read or refused."""

    path: str
    sha256: str | None
    """None if the daemon could not read it."""
    size_bytes: int | None
    """None if it is no regular file."""
    version: FileVersion | None = None
    """What tells it from others if it has no digest."""
    refusal: str | None = None
    """Why it was not read: the job has no copy of it."""

    @property
    def copied_bytes(self) -> int:
        """Size of the job's copy."""
        return 0 if self.refusal is not None else self.size_bytes or 0


class PinnedModule(msgspec.Struct, frozen=True):
    """The module of a job, as it was when it was read."""

    path: str
    sha256: str
    size_bytes: int
    version: FileVersion | None = None
    """None where the input asked for a module by its digest."""
