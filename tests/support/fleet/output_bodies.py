"""Bodies of output files, sound ones and forged ones."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any

import msgspec

from wasmdrop.fleet.bodies.output_files import unpack
from wasmdrop.protocol.outcome import OutputTree
from wasmdrop.sandbox.host.job_directory import JobDirectoryFactory

#: Larger than any sound body of these tests.
LIMIT_BYTES = 1 << 20


def new_directories(state: Path) -> JobDirectoryFactory:
    """Return a factory of job directories in a new state directory."""
    state.mkdir(mode=0o700)
    return JobDirectoryFactory(state, for_another_user=False)


def entry(path: Any, content: bytes = b"", **fields: Any) -> list[Any]:
    """Return an entry of a listing."""
    found = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **fields}
    return [path, found["size"], found["sha256"]]


def listing(files: Iterable[Any] = (), directories: Iterable[Any] = ()) -> bytes:
    """Return a listing of any entries."""
    return msgspec.msgpack.encode({"files": list(files), "directories": list(directories)})


def unpacked(
    directories: JobDirectoryFactory,
    head: bytes,
    contents: bytes = b"",
    *,
    max_bytes: int = LIMIT_BYTES,
    piece_bytes: int = 1000,
) -> OutputTree:
    """Unpack a body with this listing, in pieces of a size."""
    body = head + contents
    pieces = [body[at : at + piece_bytes] for at in range(0, len(body), piece_bytes)]

    async def run() -> OutputTree:
        async with contextlib.aclosing(_each(pieces)) as given:
            return await unpack(given, len(body), len(head), max_bytes, directories)

    return asyncio.run(run())


async def _each(pieces: Iterable[bytes]) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


def left_below(state: Path) -> list[str]:
    """Return the paths of all files below a state directory, but for empty parents of jobs."""
    found = []
    for path in sorted((state / "jobs").rglob("*")):
        relative = path.relative_to(state / "jobs")
        if len(relative.parts) > 1:
            found.append(str(relative))
    return found
