"""Looking at first bytes: what is seen, that nothing is consumed, and that waiting for them costs nothing."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from tricorn.connection import Connection
from tricorn.contracts import Item
from tricorn.datagram import Datagram
from tricorn.deadline import Deadline
from tricorn.memory_socket import memory_pair
from tricorn.peeking import FirstBytes, available, ends, peek
from tricorn.peer_socket import PeerSocket

NEVER = Deadline(None)


def tcp_pair() -> tuple[socket.socket, Connection]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname(), timeout=10)
        accepted, peer = listening.accept()
    return client, Connection(PeerSocket(socket.AF_INET, socket.SOCK_STREAM, 0, accepted.detach()), peer)


def unix_pair() -> tuple[socket.socket, Connection]:
    client, accepted = socket.socketpair()
    return client, Connection(PeerSocket(socket.AF_UNIX, socket.SOCK_STREAM, 0, accepted.detach()), "")


def in_memory() -> tuple[object, Connection]:
    ours, theirs = memory_pair("a", "b")
    return theirs, Connection(ours, "b")


@pytest.fixture(params=[tcp_pair, unix_pair, in_memory], ids=["tcp", "unix", "memory"])
def pair(request, nothing_left_behind: None) -> Iterator[tuple]:
    """A client and the connection that was accepted from it."""
    client, connection = request.param()
    yield client, connection
    client.close()
    connection.close()


@pytest.fixture
def tcp(nothing_left_behind: None) -> Iterator[tuple[socket.socket, Connection]]:
    """Over TCP."""
    client, connection = tcp_pair()
    yield client, connection
    client.close()
    connection.close()


def test_what_was_peeked_at_is_still_there(pair) -> None:
    """As often as one looks, and at most as much as was asked for."""
    client, connection = pair
    client.sendall(b"hello")
    assert peek(connection, 4, timeout=10) == b"hell"
    assert peek(connection, 100) == b"hello"
    assert peek(connection, 0) == peek(connection, -1) == b""
    assert connection.recv(100) == b"hello"
    assert peek(connection, 100) == b""


def test_looking_is_not_receiving(pair) -> None:
    """A drain must not think that a request is under way."""
    client, connection = pair
    client.sendall(b"hello")
    assert peek(connection, 4, timeout=10) == b"hell"
    notes = connection.socket
    assert (notes.engaged, notes.received, notes.waiting, notes.fault) == (False, 0, False, None)


def test_nothing_is_there(pair) -> None:
    """Neither at first, nor after a moment, nor after the end."""
    client, connection = pair
    assert peek(connection, 10) == b""
    assert peek(connection, 10, timeout=0.001) == b""
    client.close()
    assert peek(connection, 10, timeout=10) == b""
    assert connection.recv(10) == b""


def test_a_reset_is_left_for_the_handler(tcp) -> None:
    """Peeking does not take the error from it."""
    client, connection = tcp
    first: FirstBytes[str] = FirstBytes()
    first.add(connection.socket.fileno(), "it", NEVER)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert arrived(first) == ["it ended"]
    first.close()
    assert peek(connection, 10) == b""
    with pytest.raises(ConnectionResetError):
        connection.recv(10)


def test_a_closed_connection_has_nothing(tcp) -> None:
    """And raises nothing."""
    client, connection = tcp
    client.sendall(b"hello")
    assert peek(connection, 10, timeout=10) == b"hello"
    connection.close()
    assert (peek(connection, 10), available(connection)) == (b"", 0)


class Parcel(Item):
    def __init__(self, value: object) -> None:
        self.value = value

    def ack(self) -> None: ...
    def nack(self, delay: float = 0.0) -> None: ...


def test_datagrams_and_items_begin_with_their_data() -> None:
    """An item whose value is something else says where to find it."""
    assert peek(Datagram(b"packet", None, None), 3) == b"pac"
    assert peek(Parcel(b"value"), 3) == peek(Parcel(bytearray(b"value")), 3) == b"val"
    assert peek(Parcel(b"value"), -1) == b""
    with pytest.raises(TypeError, match=r"the item's value is 7, .* look at item\.value"):
        peek(Parcel(7), 3)


def arrived(first: FirstBytes[str], *, wait: bool = True) -> list[str]:
    """Who has got something since we last asked."""
    if wait:
        import select

        assert select.select([first], [], [], 10)[0], "nothing comes"
    told = first.ready()
    return [f"{first.get(fd)} ended" if ends(mask) else str(first.get(fd)) for fd, mask in told]


def test_each_arrival_is_told_once(tcp) -> None:
    """So that bytes which are not enough do not keep a loop busy."""
    client, connection = tcp
    first: FirstBytes[str] = FirstBytes()
    client.sendall(b"a")
    assert peek(connection, 1, timeout=10) == b"a"
    first.add(connection.socket.fileno(), "it", NEVER)
    assert arrived(first) == ["it"]
    assert arrived(first, wait=False) == []
    client.sendall(b"b")
    assert arrived(first) == ["it"]
    assert arrived(first, wait=False) == []
    client.shutdown(socket.SHUT_WR)
    assert arrived(first) == ["it ended"]
    assert arrived(first, wait=False) == []
    first.close()


def test_each_is_taken_once(tcp) -> None:
    """Though several threads try."""
    _, connection = tcp
    fd = connection.socket.fileno()
    first: FirstBytes[str] = FirstBytes()
    taken: list[str | None] = []
    for _ in range(50):
        first.add(fd, "it", NEVER)
        takers = [threading.Thread(target=lambda: taken.append(first.take(fd))) for _ in range(2)]
        takers.append(threading.Thread(target=lambda: taken.append(first.take_any())))
        for each in takers:
            each.start()
        for each in takers:
            each.join()
    assert len(taken) == 150
    assert taken.count("it") == 50
    assert (len(first), first.get(fd)) == (0, None)
    first.close()


def test_deadlines_come_in_their_order() -> None:
    """And those of connections that were taken meanwhile are passed over, and do not pile up."""
    pairs = [unix_pair() for _ in range(3)]
    fds = [connection.socket.fileno() for _, connection in pairs]
    first: FirstBytes[int] = FirstBytes()
    assert first.until_due() is None
    for number, seconds in enumerate((100.0, 0.0, 50.0)):
        first.add(fds[number], number, Deadline.after(seconds))
    assert list(first.overdue()) == [fds[1]]
    assert first.take(fds[1]) == 1
    assert 0 < (first.until_due() or 0) <= 50
    assert first.take(fds[2]) == 2
    assert 50 < (first.until_due() or 0) <= 100
    for _ in range(1000):
        first.add(fds[1], 1, Deadline.after(200))
        first.take(fds[1])
    assert len(first._due) < 200
    assert sorted(first.all()) == [0]
    first.close()
    for client, connection in pairs:
        client.close()
        connection.close()
