"""Become a native zygote: confine this process in part, then execute the program in ``native``.

The program gets the limits, the Landlock rules and the filters as data, and applies them before it
touches the machine code. So there is one place that decides on confinement.
"""

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NoReturn

from wasmdrop.sandbox.confinement.confine import PROCESS_BYTES, Confinement
from wasmdrop.sandbox.guest.core_module import MAX_FUEL
from wasmdrop.sandbox.guest.engine import MAX_STACK_BYTES
from wasmdrop.sandbox.guest.growth_refusals import MEMORY_EXPORT, TABLE_EXPORT
from wasmdrop.sandbox.guest.wasmtime_ffi import library_path
from wasmdrop.sandbox.native_program import find_native_program
from wasmdrop.sandbox.native_wire import encode_failure, encode_text
from wasmdrop.sandbox.wire import Preparation, ZygoteRequest

_NUMBERS: Final = struct.Struct("<18Q")
#: Of the module's digest in the title of a zygote.
_DIGITS: Final = 12

_LIMIT: Final = struct.Struct("<3Q")
_RULE: Final = struct.Struct("<2Q")

_ENVIRONMENT: Final = {
    # Symbols that are resolved lazily would be resolved again in each child.
    "LD_BIND_NOW": "1",
    # Output starts the asynchronous runtime of wasmtime's WASI in each child, with a thread for
    # each core unless this says otherwise. A job has one thread, and needs one more for timers.
    "TOKIO_WORKER_THREADS": "1",
}


def open_executables() -> list[int]:
    """Open the native program and wasmtime's library; return nothing if one cannot be opened.

    The user of the jobs may not be able to look them up: in a home directory, for instance.
    """
    program = find_native_program()
    if program is None:
        return []
    with contextlib.suppress(OSError):  # the daemon learns it when it tries the program
        return [os.open(path, os.O_RDONLY) for path in (program, library_path())]
    return []


def execute_zygote(
    executables: Sequence[int],
    request: ZygoteRequest,
    confinement: Confinement,
    link_fd: int,
    descriptors: Sequence[int],
) -> NoReturn:
    """Execute the native program as ``request`` describes it.

    ``executables``: those of :func:`open_executables`. ``descriptors``: those of the request.
    Reports to ``link_fd`` if that fails.
    """
    if not executables:
        os.write(link_fd, encode_failure("the native program can't be opened"))
        os._exit(1)
    program_fd, library_fd = executables
    arguments = [library_fd, link_fd]
    title = f"wasmdrop: zygote {request.module[:_DIGITS]}"
    if request.preparation is not None:
        code_fd, control_fd, *directories = descriptors
        content = b"".join(_configuration(request.preparation, confinement, code_fd, directories))
        file = os.memfd_create("configuration", 0)
        os.write(file, content)
        arguments += [control_fd, code_fd, file]
    os.set_inheritable(program_fd, False)
    for fd in (library_fd, link_fd, *descriptors):
        os.set_inheritable(fd, True)
    try:
        os.execve(program_fd, [title, *map(str, arguments)], _ENVIRONMENT)  # noqa: S606
    except OSError as error:
        message = f"the native program can't be executed by user {os.geteuid()}: {error.strerror}"
        os.write(link_fd, encode_failure(message))
        os._exit(1)


def _configuration(
    preparation: Preparation, confinement: Confinement, code_fd: int, directories: Sequence[int]
) -> Iterator[bytes]:
    """Yield the fields that ``read_configuration`` in ``message.c`` reads, in their order."""
    options, shares = preparation.options, preparation.shares
    has_directory = preparation.disk_bytes is not None
    described = confinement.describe_zygote(
        file_bytes=max(preparation.output_bytes, preparation.disk_bytes or 0),
        data_bytes=preparation.memory_bytes + PROCESS_BYTES,
        threads=preparation.has_wasi,
        has_directory=has_directory,
        has_grants=len(directories) > 1,
    )
    rights = described.rights
    yield _NUMBERS.pack(
        MAX_STACK_BYTES,
        options.counts_fuel,
        preparation.has_wasi,
        has_directory,
        preparation.memory_export is not None,
        MAX_FUEL if preparation.fuel is None else preparation.fuel,
        shares.memory_bytes_at_first,
        shares.table_elements_at_first,
        shares.memory_bytes,
        shares.table_elements,
        described.child_processes,
        described.highest_cpu_seconds,
        rights.version > 0,
        rights.files,
        rights.network,
        rights.scopes,
        rights.own_directory,
        rights.grant,
    )
    yield encode_text((preparation.memory_export or "").encode())
    for name in (MEMORY_EXPORT, TABLE_EXPORT):
        yield encode_text(name.encode() if preparation.tells_refusals else b"")
    yield encode_text(b"".join(_LIMIT.pack(*limit) for limit in described.limits))
    rules = [(rights.readable, code_fd)]
    rules += [
        (rights.grant if index else rights.own_directory, fd)
        for index, fd in enumerate(directories)
    ]
    yield encode_text(b"".join(_RULE.pack(*rule) for rule in rules))
    for code in described.filters:
        yield encode_text(code)
