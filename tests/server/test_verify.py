"""``verify``: who is let in."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import Server, Status
from tricorn.events import JobRefused
from tricorn.strategies import Sync, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP

Dial = Callable[[Any], socket.socket]
LOCAL = TCP("127.0.0.1", 0)


def answer(connection: Any) -> None:
    connection.send(b"answer")


class Once:
    """Behaves badly the first time."""

    def __init__(self, first: Callable[[], Any]) -> None:
        self.first = first
        self.seen: list[Any] = []

    def __call__(self, request: Any) -> Any:
        self.seen.append(request)
        return self.first() if len(self.seen) == 1 else True


def explode() -> None:
    raise ZeroDivisionError("in verify")


@pytest.mark.parametrize("first", [lambda: False, lambda: None, explode], ids=["false", "none", "raises"])
@pytest.mark.parametrize("dispatcher", [Sync, ThreadPool])
def test_refused(first: Callable[[], Any], dispatcher: Any, dial: Dial, recorder: Recorder) -> None:
    """What is false, or an exception, refuses that one peer, which sees the end; the next is served."""
    verify = Once(first)
    options: Any = {"verify": verify, "observers": [recorder], "log": False, "max_connections": 1}
    with Server(LOCAL, dispatcher(), answer, **options) as server:
        server.start()
        refused, served = dial(server), dial(server)
        assert (refused.recv(100), served.recv(100)) == (b"", b"answer")
        assert verify.seen[0].peer == refused.getsockname()
        report = server.drain()
    assert (report.refused, report.completed) == (1, 1)
    outcome = recorder.wait(JobRefused)[0].outcome
    assert outcome.status is Status.REFUSED
    assert outcome.detail in ("verify returned false", "verify raised")
    assert isinstance(outcome.error, ZeroDivisionError) is (first is explode)


def test_datagrams() -> None:
    """A refused datagram gets no answer."""
    verify = Once(lambda: False)
    with (
        Server(UDP("127.0.0.1", 0), ThreadPool(1), lambda packet: packet.reply(packet.data), verify=verify) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.start()
        client.settimeout(10)
        client.sendto(b"refused", server.address)
        client.sendto(b"served", server.address)
        assert client.recv(100) == b"served"


def test_before_the_worker(dial: Dial) -> None:
    """It runs before the handler, on the thread that accepts."""
    where: list[Any] = []

    def note(request: Any) -> bool:
        where.append(threading.current_thread())
        return True

    with Server(LOCAL, Sync(), lambda connection: note(connection), verify=note) as server:
        server.start()
        dial(server).recv(1)
    assert len(where) == 2
    assert where[0] is where[1]
