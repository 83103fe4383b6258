"""The C functions that confine a native zygote and its children, for processes in Python.

Attempts to escape are Python functions. A process that makes one is confined by the functions of
the native program, compiled into a library, with the data that a fork server would give to it.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from wasmdrop.sandbox.confinement.confine import Confinement
from wasmdrop.sandbox.guest import native_zygote
from wasmdrop.sandbox.memory_shares import MemoryShares
from wasmdrop.sandbox.wire import EngineOptions, Preparation

_SOURCES: Final = Path(native_zygote.__file__).parent / "native"
_COMPILERS: Final = ("cc", "gcc", "clang")

#: More than a ``struct configuration`` has.
_CONFIGURATION_BYTES: Final = 1 << 16

#: Indices of filters, as in ``confinement.h``.
_LOADED: Final = 1
_CHILD: Final = 2

_LINK_FD: Final = 3


def build_library(directory: Path) -> Path | None:
    """Compile the functions; return the path of the library, or None without a C compiler."""
    compiler = next(filter(shutil.which, _COMPILERS), None)
    if compiler is None:
        return None
    path = directory / "confinement.so"
    sources = [str(_SOURCES / name) for name in ("confinement.c", "message.c")]
    flags = ("-std=c11", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror")
    subprocess.run([compiler, *flags, "-o", str(path), *sources], check=True)
    return path


class NativeConfinement:
    """The confinement of the zygote and the children of one module."""

    def __init__(self, library: str, confinement: Confinement, preparation: Preparation) -> None:
        self._library = ctypes.CDLL(library)
        self._confinement = confinement
        self._preparation = preparation
        self._configuration = ctypes.create_string_buffer(_CONFIGURATION_BYTES)
        self._content: ctypes.Array[ctypes.c_char] | None = None

    def confine_zygote(self, code_fd: int, directories: Sequence[int] = ()) -> None:
        """Confine the calling process like a zygote that has loaded its machine code."""
        parts = native_zygote._configuration(
            self._preparation, self._confinement, code_fd, directories
        )
        content = b"".join(parts)
        self._content = ctypes.create_string_buffer(content, len(content))
        read = self._library.read_configuration
        read.restype = ctypes.c_bool
        is_read = read(self._content, ctypes.c_size_t(len(content)), self._configuration)
        assert is_read, "the configuration does not decode"
        self._library.confine_zygote(self._configuration)
        self._library.load_filter(self._configuration, _LOADED)

    def detach_child(self, parent_pid: int, link_fd: int) -> int:
        """Detach a child from the zygote; return the new number of its link."""
        self._library.detach_child(parent_pid, link_fd, None, 0)
        return _LINK_FD

    def confine_child(self, cpu_seconds: int, directories: Sequence[int] = ()) -> None:
        """Confine a child of the zygote, after :meth:`detach_child`."""
        self._library.limit_child(self._configuration, ctypes.c_uint64(cpu_seconds))
        if directories:
            numbers = (ctypes.c_int * len(directories))(*directories)
            self._library.restrict_to_directory(self._configuration, numbers, len(directories))
        self._library.load_filter(self._configuration, _CHILD)


def preparation_of(
    memory_bytes: int, output_bytes: int, disk_bytes: int | None = None
) -> Preparation:
    """Return the preparation of a WASI module with these limits."""
    return Preparation(
        options=EngineOptions(),
        memory_export=None,
        memory_bytes=memory_bytes,
        shares=MemoryShares(memory_bytes, 0, memory_bytes, 0),
        output_bytes=output_bytes,
        fuel=None,
        has_wasi=True,
        is_component=False,
        disk_bytes=disk_bytes,
    )
