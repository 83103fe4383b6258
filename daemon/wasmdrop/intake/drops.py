"""The values that intake hands to the dispatcher."""

from typing import TypeAlias

import msgspec

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.input import InputSpec
from wasmdrop.protocol.slot import FileVersion, InputFile, PinnedModule, Slot
from wasmdrop.system.byte_budget import Reservation


class InputDrop(msgspec.Struct, frozen=True):
    """A new version of an input file, read whole."""

    slot: Slot
    dropped_at_ns: int
    data: bytes
    input: InputFile
    spec: InputSpec | None
    """What the input asks for; None if it was refused."""
    refusal: RefusedError | None
    taken: bytes
    """The version as the journal stores it."""
    module: PinnedModule | None = None
    """The module to run, if it was read before: a later version of it is for later jobs."""
    memory: Reservation | None = None
    """What the drop occupies in memory. To be released when the journal has written it."""


class ModuleDrop(msgspec.Struct, frozen=True):
    """A new version of a module file, not read yet."""

    path: str
    version: FileVersion
    taken: bytes
    is_found: bool = False
    """Whether it may be old, and have been run by slots: the journal was lost."""


class DoneInput(msgspec.Struct, frozen=True):
    """A new version of a file that causes nothing, but is to be remembered.

    The slot of an input holds its results, or a volume was swapped and the content is the same as
    before; or a cancel file is older than its input, or does not count.
    """

    path: str
    taken: bytes


class GoneFile(msgspec.Struct, frozen=True):
    """A file of which a version was taken, and which was removed or renamed away."""

    path: str
    slot_key: str | None
    """The slot, if the file was its input."""


class CancelFile(msgspec.Struct, frozen=True):
    """A new version of a cancel file."""

    slot_key: str
    path: str
    taken: bytes | None
    """The version to remember; None if it also applies to an input that was not taken yet."""


Drop: TypeAlias = InputDrop | ModuleDrop | DoneInput | GoneFile | CancelFile
