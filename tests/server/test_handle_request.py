"""`Server.handle_request`: one, then returns."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import Server, State, StateError
from tricorn.contracts import Dispatcher, Intake
from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
from tricorn.testing.bounds import in_thread
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP

Dial = Callable[[Any], socket.socket]
LOCAL = TCP("127.0.0.1", 0)


def answer(connection: Any) -> None:
    connection.send(b"answer")


def test_one(dial: Dial) -> None:
    """Under Sync the request is over when it returns, and the server is bound as before; the next one waits."""
    with Server(LOCAL, Sync(), answer) as server:
        first, second = dial(server), dial(server)
        assert server.handle_request(timeout=10) is True
        assert server.state is State.BOUND
        assert first.recv(100) == b"answer"
        second.setblocking(False)
        with pytest.raises(BlockingIOError):
            second.recv(100)
        second.settimeout(10)
        assert server.handle_request() is True
        assert second.recv(100) == b"answer"
    assert server.report is not None and server.report.completed == 2


@pytest.mark.parametrize("timeout", [0, 0.001])
def test_none(timeout: float) -> None:
    """It returns False if nobody comes in time; 0 is a look."""
    with Server(LOCAL, Sync(), answer) as server:
        assert server.handle_request(timeout) is False
        assert server.state is State.BOUND


def test_look(dial: Dial) -> None:
    """A look takes whoever waits already."""
    with Server(LOCAL, Sync(), answer) as server:
        client = dial(server)
        assert server.handle_request(0) is True
        assert client.recv(100) == b"answer"


def test_binds() -> None:
    """It binds a new server."""
    server = Server(UDP("127.0.0.1", 0), Sync(), print)
    assert server.handle_request(0) is False
    assert server.address[1] > 0
    server.close()


@pytest.mark.parametrize(
    "dispatcher",
    [lambda: Thread(2), lambda: ThreadPool(2), lambda: Fork(2), lambda: ProcessPool(2)],
    ids=["Thread", "ThreadPool", "Fork", "ProcessPool"],
)
def test_elsewhere(dispatcher: Callable[[], Dispatcher], dial: Dial) -> None:
    """Other dispatchers serve it where they always do; the end waits for it."""
    with Server(LOCAL, dispatcher(), answer) as server:
        clients = [dial(server) for _ in range(5)]
        for _ in clients:
            assert server.handle_request(10) is True
        report = server.drain(10)
        assert [client.recv(100) for client in clients] == [b"answer"] * 5
    assert report.completed == 5


def test_then_serving(dial: Dial) -> None:
    """Afterwards it can serve for ever."""
    with Server(LOCAL, ThreadPool(2), answer) as server:
        first = dial(server)
        server.handle_request(10)
        assert first.recv(100) == b"answer"
        server.start()
        assert dial(server).recv(100) == b"answer"
        assert server.drain().completed == 2


def test_refused(dial: Dial) -> None:
    """A refused peer is not the one request: it goes on to the next."""
    seen: list[object] = []

    def verify(request: Any) -> bool:
        seen.append(request)
        return len(seen) > 1

    with Server(LOCAL, Sync(), answer, verify=verify) as server:
        refused, served = dial(server), dial(server)
        assert server.handle_request(10) is True
        assert (refused.recv(100), served.recv(100)) == (b"", b"answer")


def test_failing(dial: Dial) -> None:
    """A handler that raises costs only its request."""
    with Server(LOCAL, Sync(), lambda connection: 1 / 0, log=False) as server:
        dial(server)
        assert server.handle_request(10) is True
        assert server.drain().failed == 1


def test_drained_meanwhile(recorder: Recorder) -> None:
    """A drain by another thread ends the wait for a request; nothing is served any more."""
    server = Server(LOCAL, Sync(), answer)
    server.bind()
    with in_thread(server.handle_request, "handle_request of a drained server") as taken:
        while server.state is State.BOUND:
            pass
        assert server.drain(10).accepted == 0
    assert taken == [False]
    assert server.state is State.CLOSED


def test_dispatcher_that_only_serves() -> None:
    """A dispatcher that takes no single jobs cannot; the error says what can be called."""

    class Loop(Dispatcher):
        def serve(self, intake: Intake) -> None: ...

    with (
        Server(LOCAL, Loop(), answer) as server,
        pytest.raises(StateError, match=r"Loop takes no single requests; use serve_forever\(\) or start\(\)"),
    ):
        server.handle_request()


def test_dispatch_that_raises(dial: Dial) -> None:
    """A dispatcher that cannot dispatch costs the request, and not the server."""

    class Broken(Sync):
        def dispatch(self, job: Any) -> None:
            raise OSError("no room")

    with Server(LOCAL, Broken(), answer, log=False) as server:
        client = dial(server)
        assert server.handle_request(10) is True
        assert client.recv(100) == b""
        assert server.drain().refused == 1
