"""The way out: whoever is in the kernel's queue is served, and who comes later is refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tricorn import Dispatcher, Server
from tricorn.contracts import Transport
from tricorn.handlers import Lines, message
from tricorn.strategies import Asyncio, Fork, ProcessPool, Selector, Sync, Thread, ThreadPool
from tricorn.transports import TCP, UnixStream

WAITING = 20
PATIENCE_S = 20


def hold(connection: Any) -> None:
    """Answers a line; the word ``wait`` needs a second one."""
    if connection.recv(100) == b"wait\n":
        connection.send(b"waiting\n")
        connection.recv(100)
    connection.send(b"done\n")


@message(Lines())
def answer(line: bytes) -> bytes:
    """The same for loops, which hold everybody at once."""
    return b"waiting" if line == b"wait" else b"done"


PARTIES = {
    "sync": (Sync, hold),
    "thread": (lambda: Thread(limit=1), hold),
    "thread-pool": (lambda: ThreadPool(1), hold),
    "park-idle": (lambda: ThreadPool(1, park_idle=True), hold),
    "fork": (lambda: Fork(max_children=1), hold),
    "process-pool": (lambda: ProcessPool(1), hold),
    "selector": (Selector, answer),
    "asyncio": (Asyncio, answer),
}
TRANSPORTS = {
    "ipv4": lambda folder: TCP("127.0.0.1", 0),
    "ipv6": lambda folder: TCP("::1", 0),
    "unix": lambda folder: UnixStream(folder / "server.sock"),
}


def dial(address: Any) -> socket.socket:
    """A connection to wherever that is."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family)
    sock.settimeout(PATIENCE_S)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("party", PARTIES)
def test_who_is_queued_is_served(party: str, transport: str, tmp_path: Path) -> None:
    """Connected, and the request sent, but not accepted, for want of room: all get their answers after the stop."""
    make: Callable[[], Dispatcher]
    make, handler = PARTIES[party]
    place: Transport = TRANSPORTS[transport](tmp_path)
    with Server(place, make(), handler) as server, ExitStack() as stack:
        server.start()
        address = server.address
        first = stack.enter_context(dial(address))
        first.sendall(b"wait\n")
        assert first.recv(100) == b"waiting\n"
        others = [stack.enter_context(dial(address)) for _ in range(WAITING)]
        for each in others:
            each.sendall(b"hello\n")
        server.request_stop()
        first.sendall(b"go\n")
        assert first.recv(100) == b"done\n"
        for each in others:
            assert each.recv(100) == b"done\n"
            each.close()
        first.close()
        report = server.drain()
    assert (report.completed, report.clean) == (WAITING + 1, True)
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        dial(address)


def test_a_stop_before_serving_lets_nobody_in(tmp_path: Path) -> None:
    """Not even who is queued: nothing was promised yet."""
    server = Server(TCP("127.0.0.1", 0), Sync(), hold)
    server.bind()
    with dial(server.address) as client:
        client.sendall(b"hello\n")
        server.request_stop()
        assert server.serve_forever().accepted == 0
        with pytest.raises(ConnectionResetError):
            client.recv(1)
