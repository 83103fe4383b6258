"""The journal's table of slots that are rerun when a module changes.

A slot has a row while its latest job is one that failed because of its module. The row has the key
of that module, which depends on the input alone, not on the paths of the directories.
"""

import os
import sqlite3
from typing import Final

import msgspec

from wasmdrop.intake.layout import MODULE_NAME, Layout
from wasmdrop.intake.module_finder import DIGEST_PREFIX
from wasmdrop.jobs.job import Job

_NAME: Final = b"name:"
_DIRECTORY: Final = b"dir:"
_AFTER_DIRECTORIES: Final = b"dir;"
_SUFFIX: Final = ".wasm"


class KeyRange(msgspec.Struct, frozen=True):
    """Keys from ``first`` up to, but without, ``end``."""

    first: bytes
    end: bytes


def key_of(job: Job) -> bytes | None:
    """Return the key of the module that a failed job is rerun with; None if there is none."""
    if job.code is None or not job.code.of_the_module or job.input is None:
        return None
    reference = job.module_reference
    if reference is None:
        return _DIRECTORY + os.fsencode(os.path.dirname(job.slot.input_path))  # noqa: PTH120 - any bytes
    if reference.startswith(DIGEST_PREFIX):
        # Another module of the same digest is the same module.
        return None if job.module is not None else _NAME + reference.lower().encode()
    return _NAME + os.fsencode(reference)


def ranges_of(layout: Layout, path: str, sha256: str | None) -> list[KeyRange]:
    """Return the keys of the jobs for which a module at ``path`` may be the one they want.

    ``sha256``: the module's digest, if it could be read. This is the reverse of
    :meth:`Layout.module_places`.
    """
    exact: list[bytes] = []
    ranges: list[KeyRange] = []
    if sha256 is not None:
        exact.append(_NAME + f"{DIGEST_PREFIX}{sha256}".encode())
    below = path.removeprefix(layout.wasm_dir.rstrip("/") + "/")
    if below != path:
        exact.append(_NAME + os.fsencode(below))
        short = below.removesuffix(_SUFFIX)
        if short != below and not short.endswith(_SUFFIX):
            exact.append(_NAME + os.fsencode(short))
    directory, name = os.path.split(path)
    if path == layout.wasm_path:
        ranges.append(KeyRange(_DIRECTORY, _AFTER_DIRECTORIES))
    elif name == MODULE_NAME:
        exact.append(_DIRECTORY + os.fsencode(directory))
    return [*(KeyRange(key, key + b"\0") for key in exact), *ranges]


def remove(connection: sqlite3.Connection, job: Job) -> None:
    """Remove the row of a slot that has a new job."""
    path = os.fsencode(job.slot.input_path)
    connection.execute("DELETE FROM awaiting WHERE path = ?", (path,))


def add(connection: sqlite3.Connection, job: Job) -> None:
    """Add a row if ``job`` failed because of its module and is the latest of its slot."""
    key = key_of(job)
    if key is not None:
        connection.execute(
            "INSERT OR REPLACE INTO awaiting (path, module, job)"
            " SELECT ?, ?, id FROM jobs AS this WHERE id = ? AND NOT EXISTS"
            " (SELECT 1 FROM jobs WHERE slot = this.slot AND seq > this.seq)",
            (os.fsencode(job.slot.input_path), key, job.id),
        )
