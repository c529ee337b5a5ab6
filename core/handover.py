"""A request on its way to another process: a header in JSON, the packet's bytes, and the descriptor by SCM_RIGHTS.

Source: unix(7), "Ancillary messages".  The channel is a socket pair that keeps messages apart (SOCK_SEQPACKET), and
private to the two processes.
"""

from __future__ import annotations

import json
import os
import socket
from array import array
from io import FileIO
from itertools import count
from typing import Any, Protocol
from weakref import WeakValueDictionary

from tricorn.authentication import CertifiedPeer
from tricorn.connection import Connection, Credentials
from tricorn.contracts import Kind, Request
from tricorn.datagram import Datagram
from tricorn.errors import IncompatibleParts
from tricorn.messages import Message
from tricorn.urgent import urgent_socket_class

__all__ = ["HandoverLost", "Restorer", "make_channel", "receive_request", "restorable", "send_request"]

_MAX_MESSAGE = 200_000
#: Bytes of a packet or message that go into the channel with the header; longer ones are put into a file of their own,
#: since one packet of the channel is bounded by its send buffer (212,992 bytes by default: socket(7), wmem_default).
_MAX_INLINE = 60_000


class Restorer(Protocol):
    """What makes more of a plain connection: the listener of a transport that wraps another."""

    def around(self, inner: Any) -> Connection:
        """A connection around ``inner``, which is not open yet."""
        ...


class Redeemer(Protocol):
    """The listener of a source of items: what travels is a ticket, and the item stays where it is."""

    def redeem(self, ticket: Any) -> Request:
        """The item for which its own ``ticket()`` gave this; it need not be asked for before it is opened."""
        ...


_RESTORERS: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = count(1)


def restorable(restorer: Restorer | Redeemer) -> int:
    """The number by which processes that are forked from now on know ``restorer``, for ``restorers`` of a request."""
    number = next(_numbers)
    _RESTORERS[number] = restorer
    return number


def make_channel() -> tuple[socket.socket, socket.socket]:
    """Two ends; messages go both ways, and the end of one is the end of the stream for the other."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send_request(channel: socket.socket, number: int, request: Request) -> None:
    """Send one; blocks while the channel is full.  Raises `OSError` if the other end is gone."""
    held: Any = request
    if request.kind is Kind.ITEM and not isinstance(request, Message):
        channel.send(_item_header(number, held))
        return
    sock = held.socket
    header = {
        "number": number,
        "peer": _to_json(request.peer),
        "local": _to_json(request.local),
        "socket": [int(sock.family), int(sock.type), sock.proto],
    }
    if restorers := getattr(request, "restorers", ()):
        header["restorers"] = restorers
    if hasattr(sock, "urgent_policy"):
        header["urgent"] = sock.urgent_policy
    data = b""
    if isinstance(request, Message):
        data = request.value
        header["message"] = True
        header["identity"] = _identity_to_json(request.identity)
    elif request.kind is Kind.DATAGRAM:
        data = held.data
        header["truncated"] = held.truncated
        header["missing"] = held.missing
        header["ancillary"] = [[level, option, content.hex()] for level, option, content in held.ancillary]
        header["control"] = [[level, option, content.hex()] for level, option, content in held.control]
    if len(data) <= _MAX_INLINE:
        socket.send_fds(channel, [json.dumps(header).encode("ascii") + b"\n", data], [sock.fileno()])
        return
    header["apart"] = True
    with _in_a_file(data) as file:
        socket.send_fds(channel, [json.dumps(header).encode("ascii") + b"\n"], [sock.fileno(), file.fileno()])


def receive_request(channel: socket.socket) -> tuple[int, Request] | None:
    """The next one, with the number of its job; ``None`` at the end, `BlockingIOError` if none is there now.

    Safe from several threads at once.
    """
    message, descriptors = _receive(channel)
    if not message:
        return None
    head, _, data = message.partition(b"\n")
    header = json.loads(head)
    if "ticket" in header:
        redeemer: Redeemer = _RESTORERS[header["restorers"][0]]
        return header["number"], redeemer.redeem(header["ticket"])
    if len(descriptors) < 1 + ("apart" in header):  # this process is out of descriptors: the kernel has closed them
        for fd in descriptors:
            os.close(fd)
        raise HandoverLost(header["number"])
    if "apart" in header:
        data = _whole_file(descriptors[1])
    peer, local = _from_json(header["peer"]), _from_json(header["local"])
    family, kind, proto = header["socket"]
    if "message" in header:
        return header["number"], Message(
            data, peer, local=local, identity=_identity_from_json(header["identity"]),
            socket=socket.socket(fileno=descriptors[0]),
        )  # fmt: skip
    if "control" not in header:
        socket_class = urgent_socket_class(header.get("urgent", "ignore"))
        connection = Connection(socket_class(family, kind, proto, descriptors[0]), peer)
        for number in header.get("restorers", ()):
            connection = _RESTORERS[number].around(connection)
        return header["number"], connection
    shared = _BorrowedSocket(family, kind, proto, descriptors[0])
    return header["number"], Datagram(
        data, peer, shared, local, header["truncated"],
        control=_control(header["control"]), ancillary=_control(header["ancillary"]), missing=header["missing"],
    )  # fmt: skip


def _item_header(number: int, item: Any) -> bytes:
    if not hasattr(item, "ticket"):
        raise IncompatibleParts(
            f"a {type(item).__name__} cannot be handed to another process: it has no method ticket; "
            "let the dispatcher serve the source itself, or use ThreadPool (thread-pool)"
        )
    header = {"number": number, "restorers": item.restorers, "ticket": item.ticket()}
    return json.dumps(header).encode("ascii") + b"\n"


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """One message, and what descriptors came with it.  By recvmsg(2), since `socket.recv_fds` takes flags and forgets
    them: it would wait, and leave the descriptor open in programs that the handler starts."""
    one = array("i", [0]).itemsize
    flags = socket.MSG_DONTWAIT | _CLOEXEC
    message, ancillary, _, _ = channel.recvmsg(_MAX_MESSAGE, socket.CMSG_LEN(2 * one), flags)
    descriptors = array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % one])
    return message, list(descriptors)


class HandoverLost(Exception):
    """A request came without its descriptor: job ``number`` cannot be served here."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _BorrowedSocket(socket.socket):
    """A copy of a datagram listener's descriptor that goes with its datagram."""

    def __del__(self) -> None:
        self.close()


def _control(messages: list[Any]) -> tuple[tuple[int, int, bytes], ...]:
    return tuple((level, option, bytes.fromhex(content)) for level, option, content in messages)


_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def _in_a_file(data: bytes) -> FileIO:
    """In memory, see memfd_create(2), with the position at its beginning; without a name anywhere."""
    file = FileIO(os.memfd_create("tricorn-message"), "w+b")
    try:
        with memoryview(data) as view:
            written = 0
            while written < len(data):
                written += file.write(view[written:])
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _whole_file(fd: int) -> bytes:
    with FileIO(fd, "rb") as file:
        return file.readall()


def _identity_to_json(identity: object) -> object:
    """What Tricorn's own authenticators return, and whatever JSON holds unchanged.  Raises `TypeError` for all else."""
    if isinstance(identity, Credentials):
        return {"credentials": [identity.pid, identity.uid, identity.gid]}
    if isinstance(identity, CertifiedPeer):
        return {"certificate": [dict(identity.subject), identity.names, identity.serial]}
    try:
        travels = json.loads(json.dumps(identity)) == identity
    except (TypeError, ValueError):
        travels = False
    if not travels:
        raise TypeError(
            f"the identity {identity!r:.100} cannot be given to another process; let the authenticator return a text"
        )
    return {"plain": identity}


def _identity_from_json(value: Any) -> object:
    if "credentials" in value:
        return Credentials(*value["credentials"])
    if "certificate" in value:
        subject, names, serial = value["certificate"]
        return CertifiedPeer(subject, tuple(names), serial)
    return value["plain"]


def _to_json(address: object) -> object:
    return {"bytes": address.hex()} if isinstance(address, bytes) else address


def _from_json(value: Any) -> object:
    if isinstance(value, dict):
        return bytes.fromhex(value["bytes"])
    return tuple(value) if isinstance(value, list) else value
