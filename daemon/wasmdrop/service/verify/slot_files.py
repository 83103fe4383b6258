"""Compare the result files beside a marker with its entries for them."""

import os
from collections.abc import Mapping
from typing import Final

import msgspec

from wasmdrop.proof.claim import Claim, Content
from wasmdrop.protocol.marker import MarkedOutput
from wasmdrop.protocol.outcome import OutputTree
from wasmdrop.protocol.slot import OUTPUT_SUFFIX, RECEIPT_SUFFIX, RESULT_SUFFIXES
from wasmdrop.service.verify.documents import DocumentDirectory, UnreadableError
from wasmdrop.service.verify.verdict import Difference, difference, unverifiable
from wasmdrop.system import openat2
from wasmdrop.system.descriptors import DIRECTORY_FLAGS
from wasmdrop.system.untrusted_trees import TreeLimitError, inventory
from wasmdrop.unixfs.file_digest import FileDigest, cid_of

#: Differences that are reported; the others are not looked for.
MAX_DIFFERENCES: Final = 20

_CHUNK_BYTES: Final = 1 << 20

_MISSING: Final = "missing"


def check_slot_files(
    directory: DocumentDirectory, stem: str, claim: Claim, max_bytes: int
) -> list[Difference]:
    """Return how the files of the slot differ from the claim of its marker.

    Raises ``ConcludedError`` if the marker names more than ``max_bytes`` of files.
    """
    named = dict(claim.files)
    if claim.receipt is not None:
        named[RECEIPT_SUFFIX] = claim.receipt
    outputs = claim.output_files or {}
    total_bytes = sum(file.size_bytes or 0 for file in (*named.values(), *outputs.values()))
    if total_bytes > max_bytes:
        raise unverifiable(
            f"the marker names {total_bytes} bytes of files, more than are read ({max_bytes});"
            " raise --max-result-mb"
        )
    differences = []
    for suffix in sorted(RESULT_SUFFIXES):
        found = _check_file(directory, stem + suffix, named.get(suffix))
        if found is not None:
            differences.append(found)
    differences += _check_output(directory, stem + OUTPUT_SUFFIX, claim)
    return differences[:MAX_DIFFERENCES]


def _check_file(
    directory: DocumentDirectory, name: str, claimed: Content | None
) -> Difference | None:
    try:
        with directory.opened(name) as (fd, status):
            if claimed is None:
                return difference(name, None, f"{status.st_size} bytes")
            if status.st_size != claimed.size_bytes:
                sizes = (f"{claimed.size_bytes} bytes", f"{status.st_size} bytes")
                return difference(name, *sizes)
            digest = _digest_of(fd, status.st_size)
    except FileNotFoundError:
        return None if claimed is None else difference(name, claimed.sha256, _MISSING)
    except UnreadableError as error:
        return difference(name, claimed and claimed.sha256, error)
    actual = Content(digest.sha256, digest.size_bytes, digest.link().cid.text)
    return compare_contents(name, claimed, actual)


def _check_output(directory: DocumentDirectory, name: str, claim: Claim) -> list[Difference]:
    claimed = claim.output_files or {}
    try:
        fd = openat2.open_at(directory.fd, name, DIRECTORY_FLAGS)
    except FileNotFoundError:
        return compare_trees(name, claimed, None) + compare_directories(name, claim, None)
    except OSError as error:
        return [difference(name, "a directory", error.strerror)]
    limit_bytes = sum(file.size_bytes or 0 for file in claimed.values())
    try:
        # The last component keeps the magic link from being refused as a link.
        tree = inventory(f"/proc/self/fd/{fd}/.", limit_bytes)
    except TreeLimitError as error:
        return [difference(name, f"{limit_bytes} bytes in {len(claimed)} files", error)]
    except OSError as error:
        return [difference(name, "readable files", f"{error.filename}: {error.strerror}")]
    finally:
        os.close(fd)
    differences = compare_trees(name, claimed, tree)
    if tree.left_out:
        differences.append(difference(name, "files alone", tree.left_out))
    return differences or compare_directories(name, claim, tree)


def compare_contents(name: str, claimed: Content, actual: Content) -> Difference | None:
    """Return how digest, size or content id of a file differ from the claimed ones, if known."""
    if actual.sha256 != claimed.sha256:
        return difference(name, claimed.sha256, actual.sha256)
    if claimed.size_bytes not in {None, actual.size_bytes}:
        return difference(f"{name} bytes", claimed.size_bytes, actual.size_bytes)
    if claimed.cid not in {None, actual.cid}:
        return difference(f"{name} cid", claimed.cid, actual.cid)
    return None


def compare_directories(name: str, claim: Claim, tree: OutputTree | None) -> list[Difference]:
    """Return how content id and presence of the output directory differ from the claimed ones."""
    actual = None if tree is None else MarkedOutput(tree.cid)
    if claim.output is msgspec.UNSET or claim.output == actual:
        return []
    return [difference(f"{name} cid", *map(_described, (claim.output, actual)))]


def _described(output: MarkedOutput | None) -> str:
    if output is None:
        return "no directory"
    return "a directory without one" if output.cid is None else output.cid


def compare_trees(
    name: str, claimed: Mapping[str, Content], tree: OutputTree | None
) -> list[Difference]:
    """Return how the files in an output directory differ from the claimed ones."""
    actual = {} if tree is None else {file.path: file for file in tree.files}
    differences = []
    for path in sorted(claimed.keys() | actual.keys()):
        shown, expected, file = f"{name}/{path}", claimed.get(path), actual.get(path)
        if expected is None:
            differences.append(difference(shown, "no such file", file and file.sha256))
        elif file is None:
            differences.append(difference(shown, expected.sha256, _MISSING))
        else:
            cid = cid_of(file.sha256, file.size_bytes, file.cid)
            found = compare_contents(shown, expected, Content(file.sha256, file.size_bytes, cid))
            differences += [] if found is None else [found]
    return differences


def _digest_of(fd: int, size_bytes: int) -> FileDigest:
    """Return the digest of at most ``size_bytes`` of a file and one, as it may grow meanwhile."""
    digest, left_bytes = FileDigest(), size_bytes + 1
    while left_bytes > 0 and (chunk := os.read(fd, min(left_bytes, _CHUNK_BYTES))):
        digest.update(chunk)
        left_bytes -= len(chunk)
    return digest
