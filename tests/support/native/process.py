"""Drive one native zygote without a daemon and without confinement, for builds with sanitizers.

Sanitizers make system calls and reserve memory that confinement forbids. Configuration, requests
and reports are made and read by the code of the package.
"""

import os
import resource
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from wasmtime import wat2wasm

from wasmdrop.protocol.limits import Limits
from wasmdrop.sandbox.confinement.confine import ZygoteConfinement
from wasmdrop.sandbox.confinement.landlock import rights_of
from wasmdrop.sandbox.guest.compiler import _compiled
from wasmdrop.sandbox.guest.engine import Engine
from wasmdrop.sandbox.guest.native_zygote import _configuration
from wasmdrop.sandbox.guest.wasmtime_ffi import library_path
from wasmdrop.sandbox.host.call import Call, invocation_of, preparation_of
from wasmdrop.sandbox.host.module_cache.cache import CompiledModule
from wasmdrop.sandbox.native_wire import NativeReport, decode_report, encode_request
from wasmdrop.sandbox.wire import FRAME, EngineOptions

#: No job of these tests takes as long, however slow the sanitizers and the machine are.
_SECONDS: Final = 60.0
_ALL_BITS: Final = (1 << 64) - 1


class _NoConfinement:
    """Takes the place of a ``Confinement``."""

    def describe_zygote(self, *, file_bytes: int, **_rest: Any) -> ZygoteConfinement:
        """Return only the limit that the zygote itself reports on."""
        return ZygoteConfinement(
            limits=((resource.RLIMIT_FSIZE, file_bytes, file_bytes),),
            child_processes=resource.getrlimit(resource.RLIMIT_NPROC)[1] & _ALL_BITS,
            highest_cpu_seconds=resource.getrlimit(resource.RLIMIT_CPU)[1] & _ALL_BITS,
            rights=rights_of(0),
            filters=(b"", b"", b""),
        )


class Ended(NamedTuple):
    """A child that ended."""

    report: NativeReport
    stdout: bytes
    stderr: bytes
    status: int
    """Its wait status."""


def compiled(text: str, options: EngineOptions) -> CompiledModule:
    """Return the module of a WebAssembly text, compiled in this process."""
    summary, code = _compiled(bytes(wat2wasm(text)), Engine(options))
    fd = os.memfd_create("code")
    os.write(fd, code)
    return CompiledModule("0" * 64, options, summary, fd)


class NativeZygote:
    """A process of ``program`` that has prepared one module.

    ``directory``: the parent of the directories of jobs, if they have some; ``grants``: directories
    that they may read, by name.
    """

    def __init__(
        self,
        program: Path,
        text: str,
        options: EngineOptions | None = None,
        limits: Limits | None = None,
        directory: Path | None = None,
        grants: Mapping[str, Path] | None = None,
        **variables: str,
    ) -> None:
        self._module = compiled(text, options or EngineOptions())
        self.functions = self._module.summary.functions
        """The signatures of the functions that a job can name."""
        self._limits = limits or Limits()
        self._directory = directory
        self._grants = dict(grants or {})
        link, child_link = socket.socketpair()
        self._control, child_control = socket.socketpair(type=socket.SOCK_SEQPACKET)
        paths = [] if directory is None else [directory, *self._grants.values()]
        directories = [os.open(path, os.O_PATH) for path in paths]
        configuration = os.memfd_create("configuration")
        os.write(configuration, b"".join(self._configuration(directories)))
        library = os.open(library_path(), os.O_RDONLY)
        fds = [library, child_link.fileno(), child_control.fileno(), self._module.fd, configuration]
        self.process = subprocess.Popen(
            [program, *map(str, fds)],
            pass_fds=[*fds, *directories],
            env=os.environ | variables,
        )
        for fd in (library, configuration, *directories):
            os.close(fd)
        child_link.close()
        child_control.close()
        with link:
            link.settimeout(_SECONDS)
            self.ready = _read_report(link)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._control.close()
        self.process.wait()

    def run(self, entry: str, *args: int, **details: Any) -> Ended:
        """Run a job in a child; ``details``: more fields of its ``Call``."""
        signature = self.functions[entry]
        call = Call(entry, signature, args, grants=self._described_grants(), **details)
        invocation = invocation_of(
            self._module, call, self._limits, has_directory=self._directory is not None
        )
        request = encode_request(invocation, call.stdin, call.files)
        streams = [os.memfd_create(name) for name in ("stdout", "stderr")]
        link, pidfd = self._fork(streams if self._module.summary.wants_wasi else [])
        directories = []
        if self._directory is not None:
            directories = [os.open(path, os.O_PATH) for path in self._paths()]
        with link:
            link.settimeout(_SECONDS)
            sent = socket.send_fds(link, [request], directories)
            link.sendall(request[sent:])
            report = _read_report(link)
        word, _pid, status, _cpu_us = self._control.recv(128).split()
        assert word == b"exit"
        output = [os.pread(fd, 1 << 20, 0) for fd in streams]
        for fd in (*streams, *directories, pidfd):
            os.close(fd)
        return Ended(report, output[0], output[1], int(status))

    def _fork(self, streams: list[int]) -> tuple[socket.socket, int]:
        socket.send_fds(self._control, [b"fork 60"], streams)
        message, fds, _flags, _address = socket.recv_fds(self._control, 128, 2)
        assert message.startswith(b"child "), message
        return socket.socket(fileno=fds[0]), fds[1]

    def _paths(self) -> list[Path]:
        assert self._directory is not None
        own = self._directory / "job"
        own.mkdir(exist_ok=True)
        return [own, *self._grants.values()]

    def _described_grants(self) -> dict[str, str]:
        return {name: str(path) for name, path in self._grants.items()}

    def _configuration(self, directories: list[int]) -> Any:
        entry, signature = next(iter(self.functions.items()))
        call = Call(entry, signature, grants=self._described_grants())
        preparation = preparation_of(self._module, call, self._limits)
        if directories:
            preparation = preparation.__replace__(disk_bytes=self._limits.disk_bytes)
        return _configuration(preparation, _NoConfinement(), self._module.fd, directories)  # type: ignore[arg-type]


def _read_report(link: socket.socket) -> NativeReport:
    header_bytes, size = FRAME.unpack(_read(link, FRAME.size))
    assert header_bytes == 0
    return decode_report(_read(link, size))


def _read(link: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = link.recv(size - len(parts))
        assert part, "the process ended without a report"
        parts += part
    return parts
