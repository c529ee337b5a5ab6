"""What the tests of the server share: clients, a handler that can be held, and a record of events."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tricorn import Server
from tricorn.testing.recorder import Recorder

#: Seconds after which something that does not come is a failure.
BOUND = 10.0


@pytest.fixture
def recorder() -> Recorder:
    """An observer that keeps what it is told."""
    return Recorder()


@pytest.fixture
def dial(nothing_left_behind: None) -> Iterator[Callable[..., socket.socket]]:
    """Connect to a server, or an address, over TCP, and say something; closed at the end of the test."""
    with ExitStack() as opened:

        def connect(server: Any, words: bytes = b"") -> socket.socket:
            address = server.address if isinstance(server, Server) else server
            client = opened.enter_context(socket.create_connection(address, timeout=BOUND))
            client.sendall(words)
            return client

        yield connect


class Held:
    """A handler that says ``held``, waits until it is let go whatever happens, and says ``done``."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def __call__(self, connection: Any) -> None:
        connection.send(b"held")
        self.wait_to_be_let_go()
        connection.send(b"done")

    def wait_to_be_let_go(self) -> None:
        self.free.wait(6 * BOUND)


@pytest.fixture
def held(nothing_left_behind: None) -> Iterator[Held]:
    """The handler that can be held; let go at the end of the test.  For dispatchers with threads."""
    handler = Held()
    yield handler
    handler.free.set()


def whoami(connection: Any) -> None:
    """A handler that says who it takes the peer for."""
    connection.send(repr(connection.identity).encode())


@pytest.fixture
def serve(recorder: Any, nothing_left_behind: None) -> Iterator[Callable[..., Server]]:
    """Start a server, which is closed at the end of the test."""
    with ExitStack() as servers:

        def start(transport: Any, dispatcher: Any, authenticate: Any, handler: Any = whoami, **options: Any) -> Server:
            server = Server(
                transport, dispatcher, handler, authenticate=authenticate, observers=[recorder], log=False, **options
            )
            servers.callback(server.close)
            server.start()
            return server

        yield start
