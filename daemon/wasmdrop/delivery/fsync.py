"""fsync(2) of many descriptors at a time, by threads of the kernel's own (io_submit(2)).

A sync of a small file is a wait for the disk to flush what it has; flushes that are wanted at the
same time are one for the disk. Threads of Python could wait beside each other, too, but would hand
the interpreter to each other for each file.
"""

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Final

__all__ = ["FsyncBatch"]

#: Numbers of io_setup, io_getevents and io_submit by machine.
_CALLS: Final = {"x86_64": (206, 208, 209), "aarch64": (0, 4, 2)}

_FSYNC: Final = 2  # IOCB_CMD_FSYNC of linux/aio_abi.h, as are the structures

_libc = ctypes.CDLL(None, use_errno=True)


class _Order(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint64),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("unused", ctypes.c_uint64 * 5),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("order", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("unused", ctypes.c_int64),
    )


class FsyncBatch:
    """Syncs up to ``most`` descriptors at a time; further ones, and a single one, in turn.

    In turn, too, where the kernel has no such calls, a container forbids them, or so many are under
    way on this machine already (``fs.aio-max-nr``): that takes longer, and lasts as well.
    """

    def __init__(self, most: int) -> None:
        setup, self._getevents, self._submit = _CALLS.get(os.uname().machine, (-1, -1, -1))
        self._context = ctypes.c_ulong(0)
        if _libc.syscall(setup, ctypes.c_uint(most), ctypes.byref(self._context)) != 0:
            most = 0
        self._orders = (_Order * most)()
        self._pointers = (ctypes.POINTER(_Order) * most)(*map(ctypes.pointer, self._orders))
        self._events = (_Event * most)()
        for index, order in enumerate(self._orders):
            order.data = index
            order.opcode = _FSYNC
        self._fds: Sequence[int] = ()
        self._begun = 0

    def begin(self, fds: Sequence[int]) -> None:
        """Begin to sync these; :meth:`finish` is owed, before another beginning."""
        self._fds = fds
        self._begun = 0
        count = min(len(fds), len(self._orders))
        if count > 1:
            for index in range(count):
                self._orders[index].fd = fds[index]
            # It stops at the first that it can't begin, which finds out in its turn why.
            begun = _libc.syscall(self._submit, self._context, ctypes.c_long(count), self._pointers)
            self._begun = max(0, begun)

    def finish(self) -> list[OSError | None]:
        """Wait until all are durable; return what failed, for each in the order they were given."""
        errors: list[OSError | None] = [None] * len(self._fds)
        for index in range(self._begun, len(self._fds)):
            try:
                os.fsync(self._fds[index])
            except OSError as error:
                errors[index] = error
        left = self._begun
        while left:
            ended = _libc.syscall(
                self._getevents,
                self._context,
                ctypes.c_long(left),
                ctypes.c_long(left),
                self._events,
                None,
            )
            if ended < 0:
                number = ctypes.get_errno()
                if number == errno.EINTR:
                    continue
                raise OSError(number, os.strerror(number))
            left -= ended
            for event in self._events[:ended]:
                if event.result < 0:
                    errors[event.data] = OSError(-event.result, os.strerror(-event.result))
        return errors
