"""A child's end of its link to the daemon: frames of requests and reports."""

import os
import socket
from typing import Final, NoReturn

import msgspec

from wasmdrop.sandbox.wire import FRAME, MAX_DESCRIPTORS, encode_frame
from wasmdrop.system.descriptors import write_all

_CHUNK_BYTES: Final = 1 << 16


def receive_frame(link_fd: int) -> tuple[bytes, bytes, list[int]]:
    """Return a request's header, payload and descriptors. Exit if none comes."""
    link = socket.socket(fileno=link_fd)
    data, descriptors, _flags, _address = socket.recv_fds(link, _CHUNK_BYTES, MAX_DESCRIPTORS)
    link.detach()
    return *_complete(link_fd, data), descriptors


def send(link_fd: int, message: msgspec.Struct) -> None:
    """Write one frame."""
    write_all(link_fd, encode_frame(message))


def report(link_fd: int, message: msgspec.Struct) -> NoReturn:
    """Write the report, and exit."""
    send(link_fd, message)
    wait_for_end(link_fd)


def wait_for_end(link_fd: int) -> NoReturn:
    """Exit when the daemon closes the link.

    An exit takes a core for a millisecond, which the delivery of the results needs more.
    """
    os.read(link_fd, 1)
    os._exit(0)


def _complete(link_fd: int, data: bytes) -> tuple[bytes, bytes]:
    frame = bytearray(data)
    while len(frame) < FRAME.size or len(frame) < _frame_bytes(frame):
        data = os.read(link_fd, _CHUNK_BYTES)
        if not data:
            os._exit(0)  # the daemon closed the link without a request
        frame += data
    header_bytes, _payload_bytes = FRAME.unpack_from(frame)
    cut = FRAME.size + header_bytes
    return bytes(frame[FRAME.size : cut]), bytes(frame[cut:])


def _frame_bytes(frame: bytearray) -> int:
    header_bytes, payload_bytes = FRAME.unpack_from(frame)
    return FRAME.size + int(header_bytes) + int(payload_bytes)
