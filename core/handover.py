"""A request on its way to another process: a header in JSON, the packet's bytes, and the descriptor by SCM_RIGHTS.

Source: unix(7), "Ancillary messages".  The channel is a socket pair that keeps messages apart (SOCK_SEQPACKET), and
private to the two processes.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from tricorn.connection import Connection
from tricorn.contracts import Kind, Request
from tricorn.datagram import Datagram
from tricorn.peer_socket import PeerSocket

__all__ = ["HandoverLost", "make_channel", "receive_request", "send_request"]

_MAX_MESSAGE = 200_000


def make_channel() -> tuple[socket.socket, socket.socket]:
    """Two ends; messages go both ways, and the end of one is the end of the stream for the other."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send_request(channel: socket.socket, number: int, request: Request) -> None:
    """Send one; blocks while the channel is full.  Raises `OSError` if the other end is gone."""
    held: Any = request
    sock = held.socket
    header = {
        "number": number,
        "peer": _to_json(request.peer),
        "local": _to_json(request.local),
        "socket": [int(sock.family), int(sock.type), sock.proto],
    }
    data = b""
    if request.kind is Kind.DATAGRAM:
        data = held.data
        header["truncated"] = held.truncated
        header["control"] = [[level, option, content.hex()] for level, option, content in held.control]
    socket.send_fds(channel, [json.dumps(header).encode("ascii") + b"\n", data], [sock.fileno()])


def receive_request(channel: socket.socket) -> tuple[int, Request] | None:
    """The next one, with the number of its job; ``None`` at the end, `BlockingIOError` if none is there now.

    Safe from several threads at once.
    """
    message, descriptors, _, _ = socket.recv_fds(channel, _MAX_MESSAGE, 1, socket.MSG_DONTWAIT | _CLOEXEC)
    if not message:
        return None
    head, _, data = message.partition(b"\n")
    header = json.loads(head)
    if not descriptors:  # this process is out of descriptors, and the kernel has closed it
        raise HandoverLost(header["number"])
    peer, local = _from_json(header["peer"]), _from_json(header["local"])
    family, kind, proto = header["socket"]
    if "control" not in header:
        return header["number"], Connection(PeerSocket(family, kind, proto, descriptors[0]), peer)
    control = tuple((level, option, bytes.fromhex(content)) for level, option, content in header["control"])
    shared = _BorrowedSocket(family, kind, proto, descriptors[0])
    return header["number"], Datagram(data, peer, shared, local, header["truncated"], control=control)


class HandoverLost(Exception):
    """A request came without its descriptor: job ``number`` cannot be served here."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _BorrowedSocket(socket.socket):
    """A copy of a datagram listener's descriptor that goes with its datagram."""

    def __del__(self) -> None:
        self.close()


_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def _to_json(address: object) -> object:
    return {"bytes": address.hex()} if isinstance(address, bytes) else address


def _from_json(value: Any) -> object:
    if isinstance(value, dict):
        return bytes.fromhex(value["bytes"])
    return tuple(value) if isinstance(value, list) else value
