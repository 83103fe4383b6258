"""The values that intake hands to the dispatcher: new versions of inputs and modules."""

from typing import TypeAlias

import msgspec

from wasmdrop.protocol.errors import RefusedError
from wasmdrop.protocol.input import InputSpec
from wasmdrop.protocol.slot import FileVersion, InputFile, PinnedModule, Slot
from wasmdrop.system.byte_budget import Reservation

__all__ = ["DoneInput", "Drop", "InputDrop", "ModuleDrop"]


class InputDrop(msgspec.Struct, frozen=True):
    """One version of an input file, read whole, with what it says or why it says nothing."""

    slot: Slot
    dropped_at_ns: int
    data: bytes
    input: InputFile
    spec: InputSpec | None
    refusal: RefusedError | None
    taken: bytes
    """The version as the journal keeps it."""
    module: PinnedModule | None = None
    """The module that it is to run, where that is known: what is dropped later is not its."""
    memory: Reservation | None = None
    """What it takes in memory; to be released when the journal has written it."""


class ModuleDrop(msgspec.Struct, frozen=True):
    """One version of a module file; nobody has read it yet."""

    path: str
    version: FileVersion
    taken: bytes
    is_found: bool = False
    """Whether it may have been there for long, with slots that have run it: there is no journal."""


class DoneInput(msgspec.Struct, frozen=True):
    """One version of an input file that needs no job, but is to be remembered.

    Its slot holds its results, or it is the same as before, in a volume that was exchanged.
    """

    path: str
    taken: bytes


Drop: TypeAlias = InputDrop | ModuleDrop | DoneInput
