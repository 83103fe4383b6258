"""Set up WASI for a job: arguments, environment, standard streams, directories and files."""

import os
from collections.abc import Callable

from wasmtime import WasiConfig

from wasmdrop.sandbox.guest.wasmtime_ffi import set_stdin
from wasmdrop.sandbox.wire import WasiContext
from wasmdrop.system.descriptors import write_all


def wasi_config(
    context: WasiContext,
    descriptors: list[int],
    raw: bytes,
    capture: Callable[[int, bytes], int],
    time_ns: int | None,
) -> WasiConfig:
    """Write the job's files; return the configuration of its WASI.

    ``descriptors``: the job's standard output and error, its own directory if it has one, and its
    granted directories. ``raw``: standard input and the contents of the files, one after the other.
    ``capture`` gets the output. ``time_ns``: the times of the files, if not the current time.
    """
    stdout_fd, stderr_fd, *directories = descriptors
    config = WasiConfig()
    config.argv = list(context.argv)
    config.env = list(context.env.items())
    set_stdin(config, raw[: context.stdin_bytes])
    if context.disk_bytes is not None:
        contents = memoryview(raw)[context.stdin_bytes :]
        _write_files(directories[0], context.files, contents, time_ns)
        # Old Rust programs look for a directory named ".".
        for name in ("/", "."):
            config.preopen_dir(f"/proc/self/fd/{directories[0]}", name)
        for name, fd in zip(context.grants, directories[1:], strict=True):
            config.preopen_dir(f"/proc/self/fd/{fd}", f"/{name}", fs_mutable=False)
    config.stdout_custom = lambda data: capture(stdout_fd, data)
    config.stderr_custom = lambda data: capture(stderr_fd, data)
    return config


def _write_files(
    directory: int,
    files: tuple[tuple[str, int], ...],
    contents: memoryview,
    time_ns: int | None,
) -> None:
    made = set()
    for path, size_bytes in files:
        slash = path.find("/")
        while slash != -1:
            if path[:slash] not in made:
                os.mkdir(path[:slash], dir_fd=directory)
                made.add(path[:slash])
            slash = path.find("/", slash + 1)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=directory)
        write_all(fd, contents[:size_bytes])
        contents = contents[size_bytes:]
        if time_ns is not None:
            os.utime(fd, ns=(time_ns, time_ns))
        os.close(fd)
    if time_ns is not None:
        for path in made:
            os.utime(path, ns=(time_ns, time_ns), dir_fd=directory)
