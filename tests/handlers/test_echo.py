"""The echo handler."""

from __future__ import annotations

import socket
import threading
from typing import Any

from tricorn.connection import Connection
from tricorn.contracts import Item
from tricorn.datagram import Datagram
from tricorn.handlers.echo import echo
from tricorn.handling import adapt
from tricorn.peer_socket import PeerSocket


class Tick(Item):
    def ack(self) -> None: ...

    def nack(self, delay: float = 0.0) -> None: ...


def send(sock: socket.socket, payload: bytes) -> None:
    sock.sendall(payload)
    sock.shutdown(socket.SHUT_WR)


def test_stream() -> None:
    """A stream comes back whole, more than one read's worth of it, and ends when the client's does."""
    ours, theirs = socket.socketpair()
    payload = bytes(range(256)) * 1024
    connection = Connection(PeerSocket(fileno=ours.detach()), ("127.0.0.1", 1))

    def serve(call: Any) -> None:
        call(connection)
        connection.finish(None)

    server = threading.Thread(target=serve, args=(adapt(echo, None),))
    server.start()
    client = threading.Thread(target=send, args=(theirs, payload))
    client.start()
    got = b"".join(iter(lambda: theirs.recv(65536), b""))
    for thread in (server, client):
        thread.join()
    theirs.close()
    assert got == payload


def test_datagram() -> None:
    """A datagram comes back once, an empty one too."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as shared,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        shared.bind(("127.0.0.1", 0))
        client.bind(("127.0.0.1", 0))
        for data in (b"ping", b""):
            echo(Datagram(data, client.getsockname(), shared))
            assert client.recvfrom(100) == (data, shared.getsockname())


def test_item() -> None:
    """An item is left alone."""
    assert echo(Tick()) is None  # type: ignore[func-returns-value]
