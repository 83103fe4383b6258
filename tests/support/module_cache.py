"""Fill a module cache without a compiler, and look at what it keeps."""

import os
from pathlib import Path

from structlog.typing import EventDict

from wasmdrop.protocol.limits import MEBIBYTE
from wasmdrop.protocol.module_types import FunctionType, ModuleKind, ModuleSummary
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule, ModuleCache
from wasmdrop.sandbox.host.module_cache.eviction import GRACE_SECONDS
from wasmdrop.sandbox.wire import EngineOptions

PLAIN = EngineOptions()
FUEL = EngineOptions(fuel=True)
SUMMARY = ModuleSummary(ModuleKind.LIBRARY, {"add": FunctionType(("i64", "i64"), ("i64",))})

#: A limit that no test exceeds by accident.
ROOMY = 64 * MEBIBYTE


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    def pass_grace(self) -> None:
        """Advance the clock past the grace period."""
        self.now += GRACE_SECONDS + 1


def ingest(cache: ModuleCache, content: bytes, tmp: Path) -> str:
    """Add a module with this content."""
    source = tmp / "dropped.wasm"
    source.write_bytes(content)
    with source.open("rb") as file:
        return cache.ingest(file.fileno())


def compile_into(
    cache: ModuleCache, sha256: str, code: bytes, options: EngineOptions = PLAIN
) -> CompiledModule:
    """Add ``code`` as the output of a compiler."""
    work = cache.code_path(sha256, options).with_name(f".{sha256}-{options.token}")
    work.write_bytes(code)
    work.chmod(0o600)
    return cache.keep(sha256, options, SUMMARY, work)


def content_of(module: CompiledModule) -> bytes:
    """Return the machine code that a job would be given."""
    return os.pread(module.fd, MEBIBYTE, 0)


def refusals(logs: list[EventDict]) -> list[str]:
    """Return the reasons of refusals in the log."""
    return [str(event["reason"]) for event in logs if event["event"] == "cache-entry-refused"]


def files_below(directory: Path) -> set[str]:
    """Return the names of all files below a directory."""
    return {path.name for path in directory.rglob("*") if not path.is_dir()}


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle, as a failing disk does."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(0o444)


def cut_short(path: Path) -> None:
    """Lose the last byte."""
    os.truncate(path, path.stat().st_size - 1)
