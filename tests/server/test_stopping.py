"""Asking a server to stop: from anywhere, as often as one likes."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import Server, State, StateError
from tricorn.contracts import Dispatcher
from tricorn.events import ServerClosed
from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP

Dial = Callable[[Any], socket.socket]
LOCAL = TCP("127.0.0.1", 0)

every_dispatcher = pytest.mark.parametrize(
    "dispatcher",
    [Sync, Thread, ThreadPool, Fork, lambda: ProcessPool(1)],
    ids=["Sync", "Thread", "ThreadPool", "Fork", "ProcessPool"],
)


def nothing(connection: Any) -> None:
    pass


def test_before_bind() -> None:
    """Asked before it is bound, it binds, serves nobody and ends."""
    server = Server(LOCAL, ThreadPool(1), nothing)
    server.request_stop()
    assert server.state is State.NEW
    assert server.serve_forever().accepted == 0


@every_dispatcher
def test_before_serving(dispatcher: Callable[[], Dispatcher], dial: Dial) -> None:
    """Asked when it is bound, it takes nobody in, not even who waits already."""
    server = Server(LOCAL, dispatcher(), nothing)
    server.bind()
    client = dial(server)
    server.request_stop()
    assert server.serve_forever().accepted == 0
    with pytest.raises(ConnectionResetError):
        client.recv(1)


@every_dispatcher
def test_at_once(dispatcher: Callable[[], Dispatcher]) -> None:
    """Asked the moment after the start, it ends without using up its time."""
    for _ in range(5):
        server = Server(LOCAL, dispatcher(), nothing, drain_timeout=30)
        server.start()
        server.request_stop()
        assert server.drain().clean


def test_twice_from_threads(recorder: Recorder) -> None:
    """Asked by several threads at once, and after the end, it ends once."""
    server = Server(LOCAL, ThreadPool(2), nothing, observers=[recorder])
    server.start()
    threads = [threading.Thread(target=server.request_stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.drain()
    server.request_stop()
    assert len(recorder.of(ServerClosed)) == 1
    assert server.state is State.CLOSED


@every_dispatcher
def test_from_a_handler(dispatcher: Callable[[], Dispatcher], dial: Dial, recorder: Recorder) -> None:
    """Asked by a handler, in whatever process, it ends by itself after that handler's answer."""

    def stop(connection: Any) -> None:
        server.request_stop()
        connection.send(b"stopped")

    server = Server(LOCAL, dispatcher(), stop, observers=[recorder])
    server.start()
    assert dial(server).recv(100) == b"stopped"
    recorder.wait(ServerClosed)
    assert server.drain().completed == 1


def test_shutdown_of_the_documented_api(dial: Dial, recorder: Recorder) -> None:
    """A request-handler class stops it by ``self.server.shutdown()``, which does not wait."""

    class Stop:
        def __init__(self, request: Any, client_address: Any, server: Any) -> None:
            server.shutdown()
            request.sendall(b"stopped")

    server = Server(LOCAL, Sync(), Stop, observers=[recorder])
    server.start()
    assert dial(server).recv(100) == b"stopped"
    recorder.wait(ServerClosed)
    server.close()


def test_from_a_signal_handler(dial: Dial) -> None:
    """Asked by a signal handler that interrupts the serving thread, it ends."""

    def raise_signal(connection: Any) -> None:
        signal.raise_signal(signal.SIGUSR1)
        connection.send(b"signalled")

    server = Server(LOCAL, Sync(), raise_signal)
    server.bind()
    client = dial(server)
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: server.request_stop())
    try:
        assert server.serve_forever().completed == 1
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert client.recv(100) == b"signalled"


@pytest.mark.parametrize("dispatcher", [Sync, Thread, ThreadPool])
@pytest.mark.parametrize("ending", ["drain", "close"])
def test_draining_from_a_handler(dispatcher: Callable[[], Dispatcher], ending: str, dial: Dial) -> None:
    """A handler cannot drain the server, which would wait for that handler; the error says what to call."""

    def drain(connection: Any) -> None:
        with pytest.raises(StateError, match=r"call request_stop\(\) instead"):
            getattr(server, ending)()
        connection.send(b"refused")

    with Server(LOCAL, dispatcher(), drain) as server:
        server.start()
        assert dial(server).recv(100) == b"refused"
    assert server.report is not None and server.report.completed == 1


@pytest.mark.parametrize("dispatcher", [Fork, lambda: ProcessPool(1)], ids=["Fork", "ProcessPool"])
def test_draining_from_a_handler_elsewhere(dispatcher: Callable[[], Dispatcher], dial: Dial) -> None:
    """Nor can one that runs in another process."""

    def drain(connection: Any) -> None:
        try:
            server.drain()
        except StateError as error:
            connection.send(str(error).encode())

    with Server(LOCAL, dispatcher(), drain) as server:
        server.start()
        assert b"call request_stop() instead" in dial(server).recv(1000)


def test_new_connections(dial: Dial, held: Any) -> None:
    """Stopping closes the listener at once, while a request still runs."""
    server = Server(LOCAL, ThreadPool(2), held)
    server.start()
    client = dial(server)
    assert client.recv(4) == b"held"
    with_report = threading.Thread(target=server.drain)
    with_report.start()
    try:
        with pytest.raises(ConnectionError):  # refused; or reset, in the moment of closing
            while True:  # until the serving thread has come to it
                dial(server)
    finally:
        held.free.set()
        with_report.join()
    assert client.recv(4) == b"done"
