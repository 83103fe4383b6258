"""A child's end of its link to the daemon: one frame comes, one goes.

Once the child is confined, its filter knows none of a socket's own calls.
"""

import os
import socket
from typing import Final, NoReturn

import msgspec

from wasmdrop.sandbox.wire import BINARY_VALUE_BYTES, FRAME, encode_frame

__all__ = ["read_binary_call", "read_frame", "receive_frame", "report", "send", "wait_for_end"]

#: Most descriptors that an order brings: code, two streams, a directory, and grants.
_MAX_DESCRIPTORS: Final = 4 + 16

_CHUNK_BYTES: Final = 1 << 16


def receive_frame(link_fd: int) -> tuple[bytes, bytes, list[int]]:
    """Return an order's header, raw part and descriptors. Ends the process if none comes."""
    link = socket.socket(fileno=link_fd)
    data, descriptors, _flags, _address = socket.recv_fds(link, _CHUNK_BYTES, _MAX_DESCRIPTORS)
    link.detach()
    return *_whole(link_fd, data), descriptors


def read_frame(link_fd: int) -> tuple[bytes, bytes]:
    """As :func:`receive_frame`, of an order without descriptors, in a process that is confined."""
    return _whole(link_fd, b"")


def read_binary_call(link_fd: int, params: int) -> bytes:
    """Return the arguments of a plain function. Ends the process if none come."""
    size = FRAME.size + BINARY_VALUE_BYTES * params
    order = os.read(link_fd, size)
    if len(order) != size:
        os._exit(0)  # the daemon sends the few bytes at once, or has no use for this child
    return order[FRAME.size :]


def send(link_fd: int, message: msgspec.Struct) -> None:
    """Write one frame."""
    view = memoryview(encode_frame(message))
    while view:
        view = view[os.write(link_fd, view) :]


def report(link_fd: int, message: msgspec.Struct) -> NoReturn:
    """Write the one report, and end."""
    send(link_fd, message)
    wait_for_end(link_fd)


def wait_for_end(link_fd: int) -> NoReturn:
    """End when the daemon says so: it takes a core for a millisecond that results need more."""
    os.read(link_fd, 1)
    os._exit(0)


def _whole(link_fd: int, data: bytes) -> tuple[bytes, bytes]:
    frame = bytearray(data)
    while len(frame) < FRAME.size or len(frame) < _frame_bytes(frame):
        data = os.read(link_fd, _CHUNK_BYTES)
        if not data:
            os._exit(0)  # no order came: the daemon has no use for this child any more
        frame += data
    header_bytes, _raw_bytes = FRAME.unpack_from(frame)
    cut = FRAME.size + header_bytes
    return bytes(frame[FRAME.size : cut]), bytes(frame[cut:])


def _frame_bytes(frame: bytearray) -> int:
    header_bytes, raw_bytes = FRAME.unpack_from(frame)
    return FRAME.size + int(header_bytes) + int(raw_bytes)
