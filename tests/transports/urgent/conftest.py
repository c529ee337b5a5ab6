"""A client that can send urgent bytes, and the connection that was accepted from it."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack

import pytest

from tricorn.transports import TCP, UnixStream


class Client(socket.socket):
    """A client's socket."""

    def say(self, *parts):
        """Send ordinary parts, and urgent ones, which begin with ``!``."""
        for part in parts:
            if part.startswith(b"!"):
                self.send(part[1:], socket.MSG_OOB)
            else:
                self.sendall(part)

    def hear(self):
        """All that comes until the end of the stream."""
        return b"".join(iter(lambda: self.recv(99), b""))


@pytest.fixture(params=["tcp", "unix"])
def transport(request, tmp_path):
    """Builds either transport with a policy."""
    if request.param == "tcp":
        return lambda urgent: TCP(urgent=urgent)
    return lambda urgent: UnixStream(tmp_path / "s", urgent=urgent)


@pytest.fixture
def dial():
    """Connects a client; it is closed at the end of the test."""
    try:
        one, other = socket.socketpair()
        with one, other:
            one.send(b"!", socket.MSG_OOB)
    except OSError:
        pytest.skip("this kernel has no urgent bytes on Unix sockets")
    with ExitStack() as opened:

        def connect(address):
            family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
            client = opened.enter_context(Client(family))
            client.settimeout(10)
            client.connect(address)
            if family == socket.AF_INET:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return client

        yield connect


@pytest.fixture
def pair(loopback, transport, dial):
    """A client, and the connection that was accepted from it under a policy."""
    connections = []

    def connect(policy):
        listener = loopback.listen(transport(policy))
        client = dial(listener.address)
        connection = loopback.accept(listener)
        connection.socket.settimeout(10)
        connections.append(connection)
        return client, connection

    yield connect
    for connection in connections:
        connection.close()


@pytest.fixture
def arrive():
    """Waits until there is something at a connection."""

    def wait(connection, events=select.POLLIN):
        poller = select.poll()
        poller.register(connection.socket, events)
        assert poller.poll(10_000), "nothing arrived"

    return wait
