"""Slots: their names and files, and the input and the module that a job is made of.

Names are compared byte by byte: the composed and the decomposed form of a text are two names.
"""

import os
from typing import Final, Self

import msgspec

#: Suffix of the completion marker.
MARKER_SUFFIX: Final = ".done"

#: Suffix of a cancel file, after the whole name of the input.
CANCEL_SUFFIX: Final = ".cancel"

#: Suffix of the directory with a job's output files.
OUTPUT_SUFFIX: Final = ".output"

#: Suffix of the receipt, the signed statement about the other result files.
RECEIPT_SUFFIX: Final = ".receipt"

#: Suffixes of all result files. A delivery removes those that its job does not write.
RESULT_SUFFIXES: Final = (".json", ".txt", ".stdout", ".stderr", RECEIPT_SUFFIX)

_MAX_SLOT_NAME_CHARACTERS: Final = 200

#: In UTF-8. A file name may have 255 bytes (NAME_MAX), and the longest name in a slot is that of an
#: output directory that was set aside.
MAX_SLOT_NAME_BYTES: Final = 255 - len("result-.output.aside-01234567.output")

#: The rule for slot names, for messages.
SLOT_NAME_RULE: Final = (
    f"1 to {_MAX_SLOT_NAME_CHARACTERS} printable characters, at most {MAX_SLOT_NAME_BYTES} bytes"
)

_INPUT_PREFIX, _INPUT_SUFFIX = "input-", ".json"


def is_slot_name(name: str) -> bool:
    """Whether ``name`` is a valid slot name: safe in a path, on a terminal and in a log."""
    return (
        0 < len(name) <= _MAX_SLOT_NAME_CHARACTERS
        and name.isprintable()  # no control character, no direction override, only valid UTF-8
        and "/" not in name
        and len(os.fsencode(name)) <= MAX_SLOT_NAME_BYTES
    )


def result_stem(file: str) -> str | None:
    """Return the stem of the result files of the input named ``file``; None if it is no input."""
    if file == "input.json":
        return "result"
    if file.startswith(_INPUT_PREFIX) and file.endswith(_INPUT_SUFFIX):
        name = file[len(_INPUT_PREFIX) : -len(_INPUT_SUFFIX)]
        if is_slot_name(name):
            return f"result-{name}"
    return None


class FileVersion(msgspec.Struct, frozen=True, array_like=True):
    """Tells versions of a file apart (stat(2))."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the version with this status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class DirectoryIdentity(msgspec.Struct, frozen=True, array_like=True):
    """Tells the directory of an input from one that another user puts in its place."""

    device: int
    inode: int
    owner: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the identity of the directory with this status."""
        return cls(status.st_dev, status.st_ino, status.st_uid)

    def may_be(self, other: "DirectoryIdentity") -> bool:
        """Whether this is the same directory, even with a new owner, or one of the same owner."""
        return self.owner == other.owner or (self.device, self.inode) == (other.device, other.inode)


class Slot(msgspec.Struct, frozen=True):
    """One input path with its result files beside it."""

    key: str
    """The path of the input below the shared directory; names the slot in journal and logs."""
    input_path: str
    directory: str
    """Where the result files go."""
    stem: str
    """Their common stem: ``result`` or ``result-NAME``."""
    is_root: bool = False
    """Whether this is the slot of ``INPUT_PATH``, which a drop of the default module runs."""
    found_in: DirectoryIdentity | None = None
    """The directory that held the input. A directory of another user gets no results."""

    @property
    def result_location(self) -> tuple[str, str]:
        """A directory that other users can't replace, and the path of the result files below it."""
        root = self.input_path.removesuffix(f"/{self.key}")
        if root != self.input_path and self.directory.startswith(f"{root}/"):
            return root, self.directory[len(root) + 1 :]
        return self.directory, ""  # the shared directory itself, or the one of OUTPUT_PATH


def top_directory(key: str) -> str:
    """Return the top directory of a slot by its key; empty for slots in the shared directory."""
    return key.rpartition("/")[0].partition("/")[0]


class InputFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """The input of a job, as it was when it was read or refused."""

    path: str
    sha256: str | None
    """None if the daemon could not read it."""
    size_bytes: int | None
    """None if it is no regular file."""
    version: FileVersion | None = None
    """Identifies it if it has no digest."""
    refusal: str | None = None
    """Why it was not read: the job has no copy of it."""
    cid: str | None = None
    """The content id; None if it follows from the digest, as that of a file of one block does."""

    @property
    def copied_bytes(self) -> int:
        """Size of the job's copy of the input."""
        return 0 if self.refusal is not None else self.size_bytes or 0


class PinnedModule(msgspec.Struct, frozen=True):
    """The module of a job, as it was when it was read."""

    path: str
    sha256: str
    size_bytes: int
    version: FileVersion | None = None
    """None if the input asked for a module by its digest."""
