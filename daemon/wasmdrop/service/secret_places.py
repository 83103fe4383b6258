"""Refuse secrets in directories that producers or guests can reach."""

import os
from collections.abc import Iterator
from pathlib import Path

from wasmdrop.settings import Settings
from wasmdrop.settings.formats import printable
from wasmdrop.system.mount_table import places_of
from wasmdrop.system.secret_files import NotSecretError
from wasmdrop.system.trusted_path import Step


def require_outside(settings: Settings, way: list[Step]) -> None:
    """Raise ``NotSecretError`` if the way leads through a path of producers or guests."""
    places = places_of(step.path for step in way)
    for name, path in _reachable(settings):
        ((device, place),) = places_of([os.path.realpath(path)])
        for step, (its_device, its_place) in zip(way, places, strict=True):
            if _is_same(step.status, path) or (
                device == its_device and Path(its_place).is_relative_to(place)
            ):
                raise NotSecretError(
                    f"it is reached through {name} {printable(path)}",
                    "keep it in a directory that jobs and producers can't reach",
                )


def _reachable(settings: Settings) -> Iterator[tuple[str, Path]]:
    yield "the shared directory", settings.shared_dir
    yield "the wasm directory", settings.wasm_dir
    yield "the state directory", settings.state_dir
    for name, directory in settings.grants.items():
        yield f"grant {name}", directory
    yield "INPUT_PATH", settings.input_path
    yield "OUTPUT_PATH", settings.output_path
    yield "WASM_PATH", settings.wasm_path


def _is_same(status: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(status, path.stat())
    except OSError:
        return False  # not there yet
