"""Result packages and slots, for tests of the delivery."""

import asyncio
from pathlib import Path

from wasmdrop.delivery.delivery import Delivery
from wasmdrop.delivery.wire import (
    ResultPackage,
)
from wasmdrop.protocol.slot import Slot
from wasmdrop.system.durable_files import TEMPORARY_PREFIX

PACKAGE = ResultPackage({".json": b"{}\n", ".txt": b"1\n"}, b'{"marker":1}\n')


OTHER = ResultPackage({".json": b"[]\n", ".txt": b"2\n"}, b'{"marker":2}\n')


PLACED = {"result.json": b"{}\n", "result.txt": b"1\n", "result.done": b'{"marker":1}\n'}


def slot_in(directory: Path, name: str = "input.json", stem: str = "result") -> Slot:
    """Return a slot of this directory."""
    return Slot(name, str(directory / name), str(directory), stem)


def deliver(directory: Path, package: ResultPackage = PACKAGE, shared: Path | None = None) -> None:
    """Deliver into ``directory`` with a worker process."""
    seen: list[ResultPackage] = []

    async def place() -> None:
        with Delivery(str(shared or directory), seen.append) as delivery:
            await delivery.deliver(slot_in(directory), package)

    asyncio.run(place())
    assert seen == [package]


def content(directory: Path) -> dict[str, bytes]:
    """Return the files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def temporaries(directory: Path) -> list[Path]:
    """Return the temporary files of a directory."""
    return [path for path in directory.iterdir() if path.name.startswith(TEMPORARY_PREFIX)]


def descriptors() -> int:
    """Return the number of open descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))
