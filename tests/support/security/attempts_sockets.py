"""Attempts on sockets: of every family, with and without a place in the filesystem."""

# ruff: noqa: D401 - the docstring of an attempt describes the gain

import ctypes
import socket

from tests.support.security.syscalls import attempt, call
from tests.support.security.world import World


def _socket(family: int, kind: int, protocol: int = 0) -> socket.socket:
    fd = call("socket", family, kind, protocol)
    return socket.socket(family, kind, protocol, fileno=fd)


@attempt()
def connecting_by_ipv4(world: World) -> str:
    """To a service on the same machine."""
    _socket(socket.AF_INET, socket.SOCK_STREAM).connect(("127.0.0.1", world.port))
    return "connected"


@attempt(needs="IPv6")
def connecting_by_ipv6(world: World) -> str:
    """The same over IPv6."""
    _socket(socket.AF_INET6, socket.SOCK_STREAM).connect(("::1", world.port6))
    return "connected"


@attempt()
def sending_a_datagram(world: World) -> str:
    """Landlock has no right for this."""
    sent = _socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", world.port))
    return f"sent {sent}"


@attempt()
def connecting_to_a_socket_in_a_directory(world: World) -> str:
    """Such as that of a container engine."""
    _socket(socket.AF_UNIX, socket.SOCK_STREAM).connect(world.socket_path)
    return "connected"


@attempt()
def connecting_to_an_abstract_socket(world: World) -> str:
    """An abstract socket has no file mode."""
    _socket(socket.AF_UNIX, socket.SOCK_STREAM).connect(world.abstract)
    return "connected"


@attempt()
def asking_the_kernel_by_netlink(_world: World) -> str:
    """Its tables of addresses and routes."""
    return f"opened {_socket(socket.AF_NETLINK, socket.SOCK_RAW).fileno()}"


@attempt(needs="root")
def listening_to_the_wire(_world: World) -> str:
    """All packets of all processes."""
    return f"opened {_socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300).fileno()}"


@attempt(needs="root")
def sending_raw_packets(_world: World) -> str:
    """Below TCP."""
    return f"opened {_socket(socket.AF_INET, socket.SOCK_RAW, 1).fileno()}"


@attempt(needs="a kernel with sockets of virtual machines")
def calling_the_hypervisor(_world: World) -> str:
    """From a virtual machine to its host."""
    return f"opened {_socket(40, socket.SOCK_STREAM).fileno()}"


@attempt(needs="a kernel with its ciphers as sockets")
def using_the_kernels_ciphers(_world: World) -> str:
    """A socket family with a history of vulnerabilities."""
    return f"opened {_socket(38, socket.SOCK_SEQPACKET).fileno()}"


@attempt()
def making_a_pair_of_sockets(_world: World) -> str:
    """To pass descriptors, or to fill kernel buffers."""
    pair = (ctypes.c_int * 2)()
    call("socketpair", socket.AF_UNIX, socket.SOCK_STREAM, 0, pair)
    return f"made {list(pair)}"


@attempt()
def sending_from_a_pair_of_sockets(world: World) -> str:
    """To a socket in a directory, such as the system log; Landlock has no right for it."""
    pair = (ctypes.c_int * 2)()
    call("socketpair", socket.AF_UNIX, socket.SOCK_DGRAM, 0, pair)
    one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, fileno=pair[0])
    sent = one.sendto(b"x", world.datagram_path)
    one.detach()  # the warning about an open socket would make a forbidden call
    return f"sent {sent}"


@attempt()
def passing_a_descriptor_to_the_parent(world: World) -> str:
    """Over the link, next to a report; the receiver may not notice."""
    socket.send_fds(world.link, [b"here is one"], [0])
    return "sent it"
