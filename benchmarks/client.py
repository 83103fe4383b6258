"""The client of a measurement: drops inputs and waits for markers without disturbing the daemon.

Waits with inotify(7) for renames, by which all contenders publish. It sleeps in the kernel while
files are written under temporary names, so that it takes no time from the contender, and wakes at
the rename of the marker.
"""

import ctypes
import json
import os
import select
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

#: Time after which a marker counts as missing, in seconds.
_DEADLINE_SECONDS: Final = 120.0

_IN_MOVED_TO: Final = 0x80
_IN_Q_OVERFLOW: Final = 0x4000
_EVENT: Final = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class MissingError(Exception):
    """A marker did not come."""


def result_name(input_name: str, suffix: str) -> str:
    """Return the name of a result file of the slot of ``input_name``."""
    return input_name.removesuffix(".json").replace("input", "result", 1) + suffix


def drop_all(batches: "Sequence[tuple[Client, dict[str, dict[str, Any]]]]") -> float:
    """Drop inputs by name, all at once, each batch into the directory of its client.

    Returns the seconds until the last marker appeared.
    """
    prepared = [
        (client.prepare(name, content), client.directory / name)
        for client, contents in batches
        for name, content in contents.items()
    ]
    for client, _contents in batches:
        client.drain()
    started = time.perf_counter()
    for path, final in prepared:
        path.rename(final)
    for client, contents in batches:
        client.wait_for(result_name(name, ".done") for name in contents)
    return time.perf_counter() - started


class Client:
    """Drops into one directory and waits for markers in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fd = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        path = os.fsencode(directory)
        if self.fd < 0 or _libc.inotify_add_watch(self.fd, path, _IN_MOVED_TO) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))

    def appeared(self) -> set[str]:
        """Return the names that appeared since the last look; :attr:`fd` is readable then."""
        return self._events()[0]

    def close(self) -> None:
        """Stop watching."""
        os.close(self.fd)

    def prepare(self, name: str, content: dict[str, Any]) -> Path:
        """Write an input under a temporary name; renaming it is the drop."""
        path = self.directory / f".{name}"
        path.write_text(json.dumps(content))
        return path

    def drop(self, name: str, content: dict[str, Any]) -> tuple[float, float]:
        """Drop one input; return the seconds until its marker appeared, and the time of the drop.

        The time is in seconds since 1970, to be held against the times in the marker.
        """
        prepared = self.prepare(name, content)
        self.drain()
        dropped_at = time.time()
        started = time.perf_counter()
        prepared.rename(self.directory / name)
        self.wait_for([result_name(name, ".done")])
        return time.perf_counter() - started, dropped_at

    def wait_for(self, names: Iterable[str]) -> None:
        """Wait until all these names appeared; raise ``MissingError`` at the deadline."""
        missing = set(names)
        end = time.monotonic() + _DEADLINE_SECONDS
        while missing:
            left_seconds = end - time.monotonic()
            if left_seconds <= 0 or not select.select([self.fd], [], [], left_seconds)[0]:
                raise MissingError(
                    f"{len(missing)} markers did not come within {_DEADLINE_SECONDS:g} s,"
                    f" such as {self.directory / min(missing)}"
                )
            appeared, lost = self._events()
            missing -= appeared
            if lost:
                missing = {name for name in missing if not (self.directory / name).exists()}

    def _events(self) -> tuple[set[str], bool]:
        """Return the names that appeared, and whether the kernel dropped events."""
        try:
            data = os.read(self.fd, 1 << 18)
        except BlockingIOError:
            return set(), False
        names, lost, offset = set(), False, 0
        while offset < len(data):
            _watch, mask, _cookie, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            names.add(os.fsdecode(data[offset : offset + length].rstrip(b"\0")))
            offset += length
            lost = lost or bool(mask & _IN_Q_OVERFLOW)
        return names, lost

    def drain(self) -> None:
        """Discard earlier events: old markers must not count as new ones."""
        while self._events()[0]:
            pass
