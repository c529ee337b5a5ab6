"""Connections over a Unix socket."""

from __future__ import annotations

import os
import socket

import pytest

from tricorn.contracts import Kind
from tricorn.errors import ConfigurationError
from tricorn.transports import UnixStream

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")


@pytest.fixture
def listener(loopback, tmp_path):
    """A listener in a folder of its own."""
    return loopback.listen(UnixStream(tmp_path / "s"))


@pytest.fixture
def client(listener):
    """A client that is connected to it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(listener.address)
        yield sock


def test_bytes_go_both_ways(loopback, listener, client):
    """An accepted connection carries bytes both ways; our address is the path, the client has none."""
    connection = loopback.accept(listener)
    client.sendall(b"ping")
    assert connection.recv() == b"ping"
    connection.send(b"pong")
    assert client.recv(10) == b"pong"
    assert (connection.local, connection.peer) == (listener.address, "")
    assert client.getpeername() == listener.address
    assert UnixStream.kind is connection.kind is Kind.STREAM
    connection.close()


def test_accepted_socket_blocks(loopback, listener, client):
    """An accepted socket blocks and is close-on-exec."""
    connection = loopback.accept(listener)
    assert os.get_blocking(connection.socket.fileno())
    assert not os.get_inheritable(connection.socket.fileno())
    connection.close()


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="no SO_PEERCRED here")
def test_peer_is_known_by_its_credentials(loopback, listener, client):
    """The kernel tells process, user and group of the client."""
    connection = loopback.accept(listener)
    who = connection.credentials
    assert (who.pid, who.uid, who.gid) == (os.getpid(), os.geteuid(), os.getegid())
    connection.close()


def test_child_accepts_from_the_shared_listener(listener, client, in_child):
    """A listener that was made before a fork serves in the child."""

    def serve():
        connection = listener.accept()
        connection.send(b"from the child")
        connection.close()
        return True

    assert in_child(serve)
    assert client.recv(100) == b"from the child"


def test_backlog_must_be_positive(tmp_path):
    """A backlog of nothing is refused when the transport is built."""
    with pytest.raises(ConfigurationError, match="backlog=0"):
        UnixStream(tmp_path / "s", backlog=0)


def test_building_opens_nothing(tmp_path, open_descriptors):
    """A transport is a value: equal to its like, hashable, and without descriptor or file."""
    before = open_descriptors()
    assert UnixStream(tmp_path / "s") == UnixStream(tmp_path / "s")
    assert hash(UnixStream(tmp_path / "s")) == hash(UnixStream(tmp_path / "s"))
    assert open_descriptors() == before
    assert os.listdir(tmp_path) == []
