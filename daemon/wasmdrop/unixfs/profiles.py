"""Profiles: all choices on which the CID of a file or a directory depends.

Two are from IPIP-0499 (https://specs.ipfs.tech/ipips/ipip-0499/). The third is the widespread
``ipfs add --cid-version 1``, which has no entry there.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

_KIB: Final = 1024


class DirectorySize(Enum):
    """What counts as the size of a directory when it is compared with the threshold."""

    LINKS = "links"
    """The bytes of names and CIDs (``links-bytes``)."""
    BLOCK = "block"
    """The bytes of the encoded directory (``block-bytes``)."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The choices on which a CID depends. The hash is SHA-256, the layout balanced."""

    name: str
    cid_version: int
    raw_leaves: bool
    """Whether a chunk is a block as it is; otherwise it is in a dag-pb node."""
    chunk_bytes: int
    max_links: int
    """Most links of a node of a file."""
    directory_size: DirectorySize
    shard_above_bytes: int = 256 * _KIB
    """A directory of more bytes is sharded."""


UNIXFS_V1_2025: Final = Profile(
    name="unixfs-v1-2025",
    cid_version=1,
    raw_leaves=True,
    chunk_bytes=1024 * _KIB,
    max_links=1024,
    directory_size=DirectorySize.BLOCK,
)

CIDV1: Final = Profile(
    name="cidv1",
    cid_version=1,
    raw_leaves=True,
    chunk_bytes=256 * _KIB,
    max_links=174,
    directory_size=DirectorySize.LINKS,
)

UNIXFS_V0_2015: Final = Profile(
    name="unixfs-v0-2015",
    cid_version=0,
    raw_leaves=False,
    chunk_bytes=256 * _KIB,
    max_links=174,
    directory_size=DirectorySize.LINKS,
)

DEFAULT_PROFILE: Final = UNIXFS_V1_2025

PROFILES: Final = {profile.name: profile for profile in (UNIXFS_V1_2025, CIDV1, UNIXFS_V0_2015)}
