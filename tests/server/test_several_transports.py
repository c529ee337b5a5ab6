"""One server on several transports."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tricorn import Kind, Server
from tricorn.contracts import Dispatcher
from tricorn.events import ServerStarted
from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP, UnixDatagram, UnixStream

Dial = Callable[[Any], socket.socket]


def name_the_kind(request: Any) -> None:
    if request.kind is Kind.STREAM:
        request.send(request.recv(100) + b" over a stream")
    else:
        request.reply(request.data + b" in a packet")


def ask_packet(family: int, address: Any) -> bytes:
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        if family == socket.AF_UNIX:
            client.bind("")
        client.sendto(b"hello", address)
        return client.recv(100)


def ask_stream(client: socket.socket) -> bytes:
    client.sendall(b"hello")
    return client.recv(100)


@pytest.mark.parametrize(
    "dispatcher",
    [Sync, lambda: Thread(2), lambda: ThreadPool(2), lambda: Fork(2), lambda: ProcessPool(2)],
    ids=["Sync", "Thread", "ThreadPool", "Fork", "ProcessPool"],
)
def test_all(dispatcher: Callable[[], Dispatcher], dial: Dial, tmp_path: Path, recorder: Recorder) -> None:
    """Streams and packets, over IP and by path, are served by the same handler; nothing is left of any."""
    transports = [
        TCP("127.0.0.1", 0),
        UDP("127.0.0.1", 0),
        UnixStream(tmp_path / "stream"),
        UnixDatagram(tmp_path / "packets"),
    ]
    with Server(transports, dispatcher(), name_the_kind, observers=[recorder]) as server:
        server.start()
        tcp, udp, stream, packets = server.addresses
        assert (stream, packets) == (str(tmp_path / "stream"), str(tmp_path / "packets"))
        assert recorder.wait(ServerStarted)[0].addresses == server.addresses
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(stream)
            assert ask_stream(client) == b"hello over a stream"
        assert ask_stream(dial(tcp)) == b"hello over a stream"
        assert ask_packet(socket.AF_INET, udp) == b"hello in a packet"
        assert ask_packet(socket.AF_UNIX, packets) == b"hello in a packet"
        assert server.drain().completed == 4
    assert not list(tmp_path.iterdir())


def test_in_turn(dial: Dial) -> None:
    """A busy listener does not keep another one waiting: they are asked in turn."""
    served: list[object] = []
    transports = [TCP("127.0.0.1", 0), TCP("127.0.0.1", 0)]
    with Server(transports, Sync(), lambda connection: served.append(connection.local)) as server:
        first, second = server.addresses
        clients = [dial(first) for _ in range(4)] + [dial(second) for _ in range(4)]
        for _ in clients:
            assert server.handle_request(10)
    assert served[0] != served[1]
    assert served.count(first) == served.count(second) == 4
    assert {first, second} == set(served[:2]) == set(served[2:4])
