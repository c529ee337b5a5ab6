"""From building to closing: what a server may do when."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tricorn import DrainReport, ListenError, Server, State, StateError
from tricorn.contracts import Dispatcher
from tricorn.strategies import Sync, Thread, ThreadPool
from tricorn.transports import TCP, UnixStream

Dial = Callable[[Any], socket.socket]
LOCAL = TCP("127.0.0.1", 0)


def echo(connection: Any) -> None:
    while data := connection.recv(100):
        connection.send(data)


def ask(client: socket.socket) -> bytes:
    client.sendall(b"hello")
    return client.recv(100)


def test_states(dial: Dial, held: Any) -> None:
    """It is new, bound, serving, draining and closed, in this order."""
    server = Server(LOCAL, ThreadPool(1), held)
    seen = [server.state]
    server.bind()
    seen.append(server.state)
    server.start()
    seen.append(server.state)
    client = dial(server)
    assert client.recv(4) == b"held"
    server.request_stop()
    seen.append(server.state)
    held.free.set()
    server.drain()
    seen.append(server.state)
    assert seen == list(State)


def test_building() -> None:
    """Building one opens nothing and starts nothing; it has no address, no jobs and no report."""
    threads = threading.active_count()
    server = Server(LOCAL, ThreadPool(1), echo)
    assert (server.jobs(), server.report, threading.active_count()) == ((), None, threads)
    with pytest.raises(StateError, match=r"no address yet: bind\(\) it first"):
        _ = server.address


def test_context_manager(dial: Dial) -> None:
    """It is bound on entry: clients may connect, and are served once it starts; it is closed on exit."""
    with Server(LOCAL, ThreadPool(1), echo) as server:
        assert server.state is State.BOUND
        client = dial(server)
        client.sendall(b"early")
        server.start()
        assert client.recv(100) == b"early"
    assert server.state is State.CLOSED
    assert server.report is not None and server.report.completed == 1


def test_context_manager_around_an_error(dial: Dial) -> None:
    """It is closed on the way out of an exception, too, which goes on."""
    with pytest.raises(ZeroDivisionError), Server(LOCAL, ThreadPool(1), echo) as server:
        server.start()
        raise ZeroDivisionError
    assert server.state is State.CLOSED
    with pytest.raises(ConnectionRefusedError):
        dial(server)


def test_bound_before(dial: Dial) -> None:
    """A server that is bound already can be entered."""
    server = Server(LOCAL, ThreadPool(1), echo)
    server.bind()
    address = server.address
    with server:
        assert server.address == address


def test_never_started() -> None:
    """A server that was bound and never served closes its listener; the client in the backlog sees that."""
    with Server(LOCAL, ThreadPool(1), echo) as server:
        client = socket.create_connection(server.address, timeout=10)
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)
    assert server.report is not None and server.report.accepted == 0


def test_address_afterwards() -> None:
    """The address stays known after the end."""
    with Server(LOCAL, ThreadPool(1), echo) as server:
        address = server.address
    assert server.address == address
    assert server.addresses == (address,)


def test_serve_forever(dial: Dial) -> None:
    """It serves in the calling thread, binding by itself, and returns the report."""
    reports: list[DrainReport] = []
    server = Server(LOCAL, ThreadPool(1), echo)
    server.bind()
    thread = threading.Thread(target=lambda: reports.append(server.serve_forever()))
    thread.start()
    assert ask(dial(server)) == b"hello"
    server.request_stop()
    thread.join(10)
    assert reports == [server.report]
    assert reports[0].completed == 1


def test_bind_failure(dial: Dial) -> None:
    """A bind that fails raises ListenError with errno and address, and leaves nothing: the server is closed."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = Server([LOCAL, TCP("127.0.0.1", port)], ThreadPool(1), echo)
        with pytest.raises(ListenError, match=f"127.0.0.1:{port}") as caught:
            server.bind()
        assert caught.value.errno == errno.EADDRINUSE
    assert server.state is State.CLOSED
    with pytest.raises(StateError, match="build a new one from the same parts"):
        server.start()
    server.close()


@pytest.mark.parametrize("begin", ["start", "serve_forever", "handle_request", "__enter__"])
def test_bind_failure_everywhere(begin: str, tmp_path: Path) -> None:
    """Every way to begin raises it, and no file is left."""
    (tmp_path / "taken").mkdir()
    server = Server([UnixStream(tmp_path / "free"), UnixStream(tmp_path / "taken")], Sync(), echo)
    with pytest.raises(ListenError):
        getattr(server, begin)()
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("again", ["start", "serve_forever", "bind", "handle_request"])
def test_twice(again: str) -> None:
    """A server that serves cannot begin again, and says so."""
    with Server(LOCAL, ThreadPool(1), echo) as server:
        server.start()
        with pytest.raises(StateError, match="the server is serving already"):
            getattr(server, again)()


@pytest.mark.parametrize("again", ["start", "serve_forever", "bind", "handle_request"])
def test_after_the_end(again: str) -> None:
    """A closed server cannot begin again; the error says what to do."""
    server = Server(LOCAL, ThreadPool(1), echo)
    server.close()
    with pytest.raises(StateError, match="the server is closed.*build a new one from the same parts"):
        getattr(server, again)()


@pytest.mark.parametrize("dispatcher", [Sync(), Thread(2), ThreadPool(2)], ids=lambda each: type(each).__name__)
def test_same_parts(dispatcher: Dispatcher, dial: Dial) -> None:
    """The parts of a closed server make a new one, which serves as well."""
    for _ in range(3):
        with Server(LOCAL, dispatcher, echo) as server:
            server.start()
            client = dial(server)
            assert ask(client) == b"hello"
            assert server.drain(10).clean


def test_repr() -> None:
    """It shows its parts and its state."""
    server = Server(LOCAL, ThreadPool(3), echo)
    assert "TCP(host='127.0.0.1'" in repr(server)
    assert "ThreadPool(workers=3, " in repr(server)
    assert repr(server).endswith(": new>")
    server.close()
    assert repr(server).endswith(": closed>")
