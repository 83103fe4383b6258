"""Sharded directories: a tree of nodes in which the hash of a name says where its entry is.

A hash array mapped trie with 256 places in each node. The first byte of a name's hash selects the
place in the root, the next byte that in the node below, and so on. An entry is in the highest node
where it has its place alone (https://specs.ipfs.tech/unixfs/#dag-pb-hamtdirectory).
"""

from collections.abc import Sequence
from typing import Final

from wasmdrop.unixfs.dag_pb import Link, encode_link, encode_node, encode_shard_data, node_link
from wasmdrop.unixfs.murmur3 import murmur3_x64_64
from wasmdrop.unixfs.profiles import Profile

_FANOUT: Final = 256


class NameCollisionError(ValueError):
    """Two names of one directory have the same hash, so it can't be sharded.

    Such names are easily made on purpose: the hash is not cryptographic.
    """


def shard_link(entries: Sequence[tuple[bytes, Link]], profile: Profile) -> Link:
    """Return the link to a sharded directory with these entries."""
    hashed = [(murmur3_x64_64(name).to_bytes(8), name, link) for name, link in entries]
    return _node(hashed, 0, profile)


def _node(hashed: Sequence[tuple[bytes, bytes, Link]], level: int, profile: Profile) -> Link:
    places: dict[int, list[tuple[bytes, bytes, Link]]] = {}
    for entry in hashed:
        if level == len(entry[0]):
            raise NameCollisionError("two names in a large directory have the same hash")
        places.setdefault(entry[0][level], []).append(entry)
    taken, blocks, links = 0, [], []
    for place, there in sorted(places.items()):
        taken |= 1 << place
        prefix = b"%02X" % place
        if len(there) == 1:
            _, name, link = there[0]
            prefix += name
        else:
            link = _node(there, level + 1, profile)
        blocks.append(encode_link(prefix, link))
        links.append(link)
    bitfield = taken.to_bytes((taken.bit_length() + 7) // 8)
    block = encode_node(blocks, encode_shard_data(bitfield, _FANOUT))
    return node_link(profile.cid_version, links, block)
