"""What composition costs for each request, in calls: a gate on their number, which no machine's mood can change.

Whoever adds one to the way of every request raises a number here, and says in the commit what it is worth.  The
microseconds are in ``benchmarks/compose_cost.py``.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

import pytest

from tricorn import Server
from tricorn.handlers import Lines, message
from tricorn.strategies import Selector, Sync
from tricorn.transports import TCP, UDP

REQUESTS, WARM = 100, 50
ALL = WARM + REQUESTS + 1
#: Python functions and C functions, from one accept to the next, CPython 3.11 to 3.13; the handler's own included.
MOST = {
    "a connection under Sync": (29, 20),
    "a packet under Sync": (8, 8),
    "packets in batches under Sync": (10, 18),
    "a connection under Selector": (42, 28),
    "a further line under Selector": (15, 10),
}


def echo_stream(connection: Any) -> None:
    connection.send(connection.recv(100))


def echo_packet(packet: Any) -> None:
    packet.reply(packet.data)


@message(Lines())
def echo_line(line: bytes) -> bytes:
    return line


class Calls:
    """Counts those of the serving thread, of ``REQUESTS`` requests after the first ``WARM``."""

    def __init__(self, handle: Callable[[Any], Any]) -> None:
        self.python = self.c = self.seen = 0
        self._handle = handle

    def __call__(self, request: Any) -> Any:
        self.seen += 1
        if self.seen == WARM:
            sys.setprofile(self._note)
        elif self.seen == WARM + REQUESTS:
            sys.setprofile(None)
        return self._handle(request)

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        self.python += event == "call"
        self.c += event == "c_call"

    def check(self, what: str) -> None:
        found = self.python / REQUESTS, self.c / REQUESTS
        most = MOST[what]
        assert round(found[0]) <= most[0], f"{what}: {found[0]:.1f} Python calls, {found[1]:.1f} C calls"
        assert round(found[1]) <= most[1], f"{what}: {found[0]:.1f} Python calls, {found[1]:.1f} C calls"


@pytest.fixture(autouse=True)
def _nobody_else_profiles() -> None:
    if sys.gettrace() is not None or sys.getprofile() is not None:
        pytest.skip("somebody else counts, or covers")


def connections(server: Server) -> None:
    """All are queued, with all that they have to say, before the first is accepted: nobody waits for anybody."""
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(server.address, 10)) for _ in range(ALL)]
        for client in clients:
            client.sendall(b"a\n")
            client.shutdown(socket.SHUT_WR)
        server.start()
        for client in clients:
            assert client.recv(9) == b"a\n"
            assert client.recv(9) == b""


def packets(server: Server) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect(server.address)
        for _ in range(ALL):
            client.send(b"a")
        server.start()
        for _ in range(ALL):
            assert client.recv(9) == b"a"


def lines(server: Server) -> None:
    """One after the other, so each has a turn of the loop."""
    server.start()
    with socket.create_connection(server.address, 10) as client:
        for _ in range(ALL):
            client.sendall(b"a\n")
            assert client.recv(9) == b"a\n"


@pytest.mark.parametrize(
    ("what", "transport", "dispatcher", "handle", "load"),
    [
        ("a connection under Sync", TCP("127.0.0.1", 0), Sync, echo_stream, connections),
        ("a packet under Sync", UDP("127.0.0.1", 0), Sync, echo_packet, packets),
        ("packets in batches under Sync", UDP("127.0.0.1", 0, batch=32), Sync, echo_packet, packets),
        ("a connection under Selector", TCP("127.0.0.1", 0), Selector, echo_line.function, connections),
        ("a further line under Selector", TCP("127.0.0.1", 0), Selector, echo_line.function, lines),
    ],
)
def test_no_more_calls_than_these(what: str, transport: Any, dispatcher: Any, handle: Any, load: Any) -> None:
    """The number for each request."""
    calls = Calls(handle)
    handler: Any = message(Lines())(lambda line: calls(line)) if dispatcher is Selector else lambda each: calls(each)
    with Server(transport, dispatcher(), handler) as server:
        load(server)
    assert calls.seen >= WARM + REQUESTS
    calls.check(what)
