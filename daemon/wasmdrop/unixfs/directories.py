"""The CID of a directory, or of a tree of them, from the links to its files."""

from collections.abc import Iterable, Mapping, Sequence

from wasmdrop.unixfs.dag_pb import DIRECTORY_DATA, Link, encode_link, encode_node, node_link
from wasmdrop.unixfs.profiles import DEFAULT_PROFILE, DirectorySize, Profile
from wasmdrop.unixfs.shards import shard_link


def directory_link(entries: Mapping[str, Link], profile: Profile = DEFAULT_PROFILE) -> Link:
    """Return the link to a directory with these entries, sharded if ``profile`` says so.

    Names are as ``os.listdir`` returns them: bytes that are not UTF-8 are surrogates. Raises
    ``NameCollisionError`` if the directory must be sharded and the names don't allow it.
    """
    links = sorted(
        (name.encode("utf-8", "surrogateescape"), link) for name, link in entries.items()
    )
    block = encode_node((encode_link(name, link) for name, link in links), DIRECTORY_DATA)
    if _size_bytes(links, block, profile) > profile.shard_above_bytes:
        return shard_link(links, profile)
    return node_link(profile.cid_version, [link for _, link in links], block)


def _size_bytes(links: Sequence[tuple[bytes, Link]], block: bytes, profile: Profile) -> int:
    if profile.directory_size is DirectorySize.BLOCK:
        return len(block)
    return sum(len(name) + len(link.cid.binary) for name, link in links)


def tree_link(
    files: Mapping[str, Link],
    directories: Iterable[str] = (),
    profile: Profile = DEFAULT_PROFILE,
) -> Link:
    """Return the link to the directory that has these files and directories below it.

    Paths are relative, with slashes. ``directories`` need only name the empty ones. No path may be
    that of a file and that of a directory. Raises ``NameCollisionError`` like ``directory_link``.
    """
    entries: dict[str, dict[str, Link]] = {}
    for path in directories:
        _add_directory(entries, path)
    _add_directory(entries, "")
    for path, link in files.items():
        parent, _, name = path.rpartition("/")
        _add_directory(entries, parent)
        entries[parent][name] = link
    # A directory's link needs those of the directories in it, so the deepest come first.
    for path in sorted(entries, key=_depth, reverse=True):
        link = directory_link(entries[path], profile)
        if not path:
            return link
        parent, _, name = path.rpartition("/")
        entries[parent][name] = link
    raise AssertionError("the root is the last of the directories")


def _add_directory(entries: dict[str, dict[str, Link]], path: str) -> None:
    while path not in entries:
        entries[path] = {}
        path = path.rpartition("/")[0]


def _depth(path: str) -> int:
    return path.count("/") + bool(path)
