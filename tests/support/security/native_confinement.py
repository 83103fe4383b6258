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

_NATIVE: Final = Path(native_zygote.__file__).parent / "native"
_SOURCES: Final = (
    Path(__file__).parents[1] / "native/confined.c",
    _NATIVE / "confinement.c",
    _NATIVE / "message.c",
)
_COMPILERS: Final = ("cc", "gcc", "clang")

_LINK_FD: Final = 3


def build_library(directory: Path) -> Path | None:
    """Compile the functions; return the path of the library, or None without a C compiler."""
    compiler = next(filter(shutil.which, _COMPILERS), None)
    if compiler is None:
        return None
    path = directory / "confinement.so"
    flags = ("-std=c11", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{_NATIVE}")
    subprocess.run([compiler, *flags, "-o", str(path), *map(str, _SOURCES)], check=True)
    return path


class NativeConfinement:
    """The confinement of the zygote and the children of one module."""

    def __init__(self, library: str, confinement: Confinement, preparation: Preparation) -> None:
        self._library = ctypes.CDLL(library)
        self._confinement = confinement
        self._preparation = preparation
        self._content: ctypes.Array[ctypes.c_char] | None = None

    def confine_zygote(self, code_fd: int, directories: Sequence[int] = ()) -> None:
        """Confine the calling process like a zygote that has loaded its machine code."""
        parts = native_zygote._configuration(
            self._preparation, self._confinement, code_fd, directories
        )
        content = b"".join(parts)
        self._content = ctypes.create_string_buffer(content, len(content))
        configure = self._library.configure
        configure.restype = ctypes.c_bool
        is_read = configure(self._content, ctypes.c_size_t(len(content)))
        assert is_read, "the configuration does not decode"
        self._library.become_zygote()

    def detach_child(self, parent_pid: int, link_fd: int) -> int:
        """Detach a child from the zygote; return the new number of its link."""
        self._library.detach_child(parent_pid, link_fd, None, 0)
        return _LINK_FD

    def confine_child(self, cpu_seconds: int, directories: Sequence[int] = ()) -> None:
        """Confine a child of the zygote, after :meth:`detach_child`."""
        numbers = (ctypes.c_int * len(directories))(*directories)
        self._library.become_child(ctypes.c_uint64(cpu_seconds), numbers, len(directories))


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
