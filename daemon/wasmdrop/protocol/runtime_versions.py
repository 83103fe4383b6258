"""The versions of the software that runs a job."""

import functools
import platform
from importlib.metadata import version

import msgspec


class RuntimeVersions(msgspec.Struct, frozen=True):
    """Versions of the software that ran the job."""

    wasmdrop: str
    wasmtime: str
    platform: str


@functools.cache
def own_versions() -> RuntimeVersions:
    """Return the versions of this process."""
    return RuntimeVersions(
        version("wasmdrop"),
        version("wasmtime"),
        f"{platform.system().lower()}-{platform.machine()}",
    )
