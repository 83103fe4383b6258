"""fsync(2) of many descriptors at a time, by threads of the kernel (io_submit(2)).

The fsync of a small file waits for the disk to flush, and the disk serves concurrent flushes
together. Python threads could wait in parallel too, but would pass the interpreter around for each
file.
"""

import ctypes
import os
from collections.abc import Sequence
from typing import Final

from wasmdrop.system import libc

#: Numbers of io_setup, io_getevents and io_submit by machine.
_SYSCALLS: Final = {"x86_64": (206, 208, 209), "aarch64": (0, 4, 2)}

_FSYNC: Final = 2  # IOCB_CMD_FSYNC of linux/aio_abi.h, as are the structures


class _ControlBlock(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint64),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("unused", ctypes.c_uint64 * 5),
    )


class _Completion(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("control_block", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("unused", ctypes.c_int64),
    )


class FsyncBatch:
    """Syncs up to ``max_parallel`` descriptors in parallel, and the others one after the other.

    A single descriptor is synced directly. So are all of them if the kernel has no such calls, a
    container forbids them, or the machine's limit is reached (``fs.aio-max-nr``); that only takes
    longer.
    """

    def __init__(self, max_parallel: int) -> None:
        setup, self._getevents, self._submit = _SYSCALLS.get(os.uname().machine, (-1, -1, -1))
        self._context = ctypes.c_ulong(0)
        try:
            libc.syscall(setup, ctypes.c_uint(max_parallel), ctypes.byref(self._context))
        except OSError:
            max_parallel = 0
        self._blocks = (_ControlBlock * max_parallel)()
        self._pointers = (ctypes.POINTER(_ControlBlock) * max_parallel)(
            *map(ctypes.pointer, self._blocks)
        )
        self._completions = (_Completion * max_parallel)()
        for index, block in enumerate(self._blocks):
            block.data = index
            block.opcode = _FSYNC
        self._fds: Sequence[int] = ()
        self._submitted = 0

    def begin(self, fds: Sequence[int]) -> None:
        """Start to sync ``fds``. Must be followed by :meth:`finish`."""
        self._fds = fds
        self._submitted = 0
        count = min(len(fds), len(self._blocks))
        if count > 1:
            for index in range(count):
                self._blocks[index].fd = fds[index]
            try:
                # Stops at the first one that fails; `finish` syncs the rest and gets its error.
                self._submitted = libc.syscall(
                    self._submit, self._context, ctypes.c_long(count), self._pointers
                )
            except OSError:
                self._submitted = 0

    def finish(self) -> list[OSError | None]:
        """Wait until all are synced; return the error of each, in the order of ``fds``."""
        errors: list[OSError | None] = [None] * len(self._fds)
        for index in range(self._submitted, len(self._fds)):
            try:
                os.fsync(self._fds[index])
            except OSError as error:
                errors[index] = error
        left = self._submitted
        while left:
            try:
                count = libc.syscall(
                    self._getevents,
                    self._context,
                    ctypes.c_long(left),
                    ctypes.c_long(left),
                    self._completions,
                    None,
                )
            except InterruptedError:
                continue
            left -= count
            for completion in self._completions[:count]:
                if completion.result < 0:
                    number = -completion.result
                    errors[completion.data] = OSError(number, os.strerror(number))
        return errors
