"""Decodes the nodes of files from strangers: strictly, and with sizes that add up.

A node is a ``PBNode`` of dag-pb (https://ipld.io/specs/codecs/dag-pb/spec/) with a ``Data`` message
of UnixFS (https://specs.ipfs.tech/unixfs/). Stricter than protobuf: no unknown field, no repeated
one but links and sizes, fields in the order of their numbers, varints in their shortest form. As
the specification demands, the data of a node may precede or follow its links.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from wasmdrop.unixfs.cid import Cid, CidError, parse_binary_cid
from wasmdrop.unixfs.dag_pb import NodeType

#: A varint: seven bits a byte, the lowest first, and a mark on all bytes but the last.
_VARINT_BITS: Final = 7
_VARINT_MORE: Final = 0x80
_NUMBER_BITS: Final = 64
_MAX_VARINT_BITS: Final = 70

#: Types of fields on the wire, the low bits of a field's tag.
_TYPE_BITS: Final = 3
_TYPE_MASK: Final = 0b111
_VARINT: Final = 0
_BYTES: Final = 2

#: Fields of a PBNode, by number, with their types.
_DATA, _LINK = 1, 2
_NODE_FIELDS: Final = {_DATA: _BYTES, _LINK: _BYTES}
#: Fields of a PBLink.
_HASH, _NAME, _DAG_SIZE = 1, 2, 3
_LINK_FIELDS: Final = {_HASH: _BYTES, _NAME: _BYTES, _DAG_SIZE: _VARINT}
#: Fields of UnixFS data. Mode and time do not matter here.
_TYPE, _CONTENT, _SIZE, _CHILD_SIZE, _HASH_TYPE, _FANOUT, _MODE, _TIME = range(1, 9)
_UNIXFS_FIELDS: Final = {
    _TYPE: _VARINT,
    _CONTENT: _BYTES,
    _SIZE: _VARINT,
    _CHILD_SIZE: _VARINT,
    _HASH_TYPE: _VARINT,
    _FANOUT: _VARINT,
    _MODE: _VARINT,
    _TIME: _BYTES,
}
_FILE_FIELDS: Final = _UNIXFS_FIELDS.keys() - {_HASH_TYPE, _FANOUT}

_CUT: Final = "ends in the middle of a field"

_NO_FILE: Final[Mapping[int | None, str]] = {
    NodeType.DIRECTORY: "is a directory",
    NodeType.SHARD: "is a directory",
    NodeType.SYMLINK: "is a symbolic link",
    NodeType.METADATA: "is metadata",
}


class NodeError(ValueError):
    """A block is no node of a file. The message quotes nothing of the block."""


@dataclass(frozen=True, slots=True)
class Child:
    """A reference to a part of a file."""

    cid: Cid
    size_bytes: int
    """Size of the part, as the node says; more than 0."""


@dataclass(frozen=True, slots=True)
class FileNode:
    """A node of a file: content of its own, followed by that of its children."""

    content: bytes
    children: tuple[Child, ...]
    size_bytes: int
    """Size of all the content: of its own, and of its children as the node says."""


class _Field(NamedTuple):
    number: int
    value: int
    """A varint's number, or the length of the bytes."""
    content: bytes


def decode_file_node(block: bytes) -> FileNode:
    """Return the node of a file in a dag-pb block. Raises ``NodeError``."""
    fields = list(_fields(block, _NODE_FIELDS))
    data = [field.content for field in fields if field.number == _DATA]
    if len(data) != 1 or _DATA not in {fields[0].number, fields[-1].number}:
        raise NodeError("has no data, several, or data between its links")
    content, size_bytes, child_sizes = _decode_file_data(data[0])
    links = [_decode_link(field.content) for field in fields if field.number == _LINK]
    if len(links) != len(child_sizes):
        raise NodeError(f"has {len(links)} links and {len(child_sizes)} sizes")
    if 0 in child_sizes:
        raise NodeError("has a link to an empty part")
    if size_bytes != len(content) + sum(child_sizes):
        raise NodeError(f"declares {size_bytes} bytes, but not the sum of its parts")
    children = zip(links, child_sizes, strict=True)
    return FileNode(content, tuple(Child(*child) for child in children), size_bytes)


def _decode_file_data(data: bytes) -> tuple[bytes, int, list[int]]:
    """Return the content, the declared size, and the declared sizes of the children."""
    fields = list(_ordered(_fields(data, _UNIXFS_FIELDS), repeated=_CHILD_SIZE))
    first = {field.number: field for field in reversed(fields)}
    node_type = first[_TYPE].value if _TYPE in first else None
    if node_type not in {NodeType.FILE, NodeType.RAW}:
        raise NodeError(_NO_FILE.get(node_type, "has an unknown UnixFS type"))
    if not _FILE_FIELDS.issuperset(first):
        raise NodeError("is a file with the hash or fanout of a directory")
    if _SIZE not in first:
        raise NodeError("does not declare its size")
    child_sizes = [field.value for field in fields if field.number == _CHILD_SIZE]
    if child_sizes and node_type == NodeType.RAW:
        raise NodeError("is raw and has parts")
    content = first[_CONTENT].content if _CONTENT in first else b""
    return content, first[_SIZE].value, child_sizes


def _decode_link(link: bytes) -> Cid:
    fields = {field.number: field for field in _ordered(_fields(link, _LINK_FIELDS))}
    if _HASH not in fields:
        raise NodeError("has a link without a CID")
    if _NAME in fields and fields[_NAME].content:
        raise NodeError("has a link with a name, which parts of a file have not")
    try:
        return parse_binary_cid(fields[_HASH].content)
    except CidError as error:
        raise NodeError(f"has a link whose target {error}") from None


def _ordered(fields: Iterable[_Field], repeated: int = 0) -> Iterator[_Field]:
    """Yield ``fields``, whose numbers must rise, except for those of number ``repeated``."""
    last = 0
    for field in fields:
        if field.number < last or (field.number == last != repeated):
            raise NodeError("has fields out of order, or twice")
        last = field.number
        yield field


def _fields(message: bytes, types: Mapping[int, int]) -> Iterator[_Field]:
    """Yield the fields of a protobuf message, all of which ``types`` must have."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire_type = tag >> _TYPE_BITS, tag & _TYPE_MASK
        if types.get(number) != wire_type:
            raise NodeError("has an unknown field")
        value, at = _varint(message, at)
        content = b""
        if wire_type == _BYTES:
            content = message[at : at + value]
            at += value
            if at > len(message):
                raise NodeError(_CUT)
        yield _Field(number, value, content)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number at an offset, and the offset behind it."""
    number = 0
    for shift in range(0, _MAX_VARINT_BITS, _VARINT_BITS):
        if at == len(message):
            raise NodeError(_CUT)
        byte = message[at]
        at += 1
        number |= (byte & ~_VARINT_MORE) << shift
        if byte < _VARINT_MORE:
            if number >> _NUMBER_BITS or (byte == 0 and shift):
                break
            return number, at
    raise NodeError("has a number of more than 64 bits, or not in its shortest form")
