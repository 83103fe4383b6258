"""What a delivery puts into a slot."""

import msgspec

from wasmdrop.protocol.outcome import OutputTree

__all__ = ["Package"]


class Package(msgspec.Struct, frozen=True):
    """All that a delivery puts into a slot."""

    files: dict[str, bytes]
    """The result files by suffix: ``.json``, ``.txt``, …"""
    marker: bytes
    output: OutputTree | None = None
    """What becomes ``result.output/``; where it lies it is the delivery's, which removes it."""

    @property
    def line(self) -> bytes:
        """The line for standard output, the same as ``result.json``."""
        return self.files[".json"]

    @property
    def size_bytes(self) -> int:
        """The size of the result files and the marker, without the output files."""
        return len(self.marker) + sum(map(len, self.files.values()))
