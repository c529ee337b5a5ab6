"""Message handlers over real connections: error replies that arrive, and how connections end."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tricorn import Server
from tricorn.errors import FramingError
from tricorn.events import Outcome, Status
from tricorn.handlers import Chunks, Lines, message
from tricorn.strategies import Selector, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, Memory, UnixStream

DISPATCHERS = {
    "sync": Sync,
    "thread": Thread,
    "park_idle": lambda: ThreadPool(2, park_idle=True),
    "selector": Selector,
    "selector, threads": lambda: Selector(then=ThreadPool(2)),
}


def served(dispatcher: Any, handler: Any, client: Callable[[socket.socket], None], transport: Any = None) -> Outcome:
    """Serve one client, and return how its connection ended."""
    recorder = Recorder()
    with Server(transport or TCP(), dispatcher(), handler, log=False, observers=[recorder]) as server:
        server.start()
        family = socket.AF_INET if transport is None else socket.AF_UNIX
        with socket.socket(family) as sock:
            sock.settimeout(10)
            sock.connect(server.address)
            client(sock)
        return recorder.outcome(1)


def everything(sock: socket.socket) -> bytes:
    """Until the end, which is no reset."""
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


@pytest.mark.parametrize("dispatcher", DISPATCHERS.values(), ids=DISPATCHERS)
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_the_error_reply_arrives(dispatcher: Any, unix: bool, tmp_path: Any) -> None:
    """A peer that breaks the framing, and goes on sending, gets the replies and the error reply, and then the end."""
    handler = message(Lines(100, error_reply=b"too long\n"))(bytes.upper)

    def client(sock: socket.socket) -> None:
        sock.sendall(b"fine\n" + b"x" * 300_000)
        assert everything(sock) == b"FINE\ntoo long\n"

    outcome = served(dispatcher, handler, client, UnixStream(tmp_path / "s") if unix else None)
    assert outcome.status is Status.REFUSED
    assert isinstance(outcome.error, FramingError)


@pytest.mark.parametrize("dispatcher", DISPATCHERS.values(), ids=DISPATCHERS)
def test_without_an_error_reply(dispatcher: Any) -> None:
    """Where the framing says nothing, the peer gets the replies to what was right, and the end."""

    def client(sock: socket.socket) -> None:
        sock.sendall(b"fine\n" + b"x" * 300_000)
        assert everything(sock) == b"FINE\n"

    assert served(dispatcher, message(Lines(100))(bytes.upper), client).status is Status.REFUSED


@pytest.mark.parametrize("dispatcher", DISPATCHERS.values(), ids=DISPATCHERS)
def test_a_peer_that_never_stops(dispatcher: Any) -> None:
    """One that goes on and on after its mistake is not listened to for ever: at most a megabyte, or a second."""

    def client(sock: socket.socket) -> None:
        with pytest.raises(ConnectionError):
            while True:
                sock.sendall(bytes(65536))

    assert served(dispatcher, message(Lines(100, error_reply=b"!"))(bytes.upper), client).status is Status.REFUSED


@pytest.mark.parametrize("dispatcher", DISPATCHERS.values(), ids=DISPATCHERS)
def test_a_peer_that_neither_sends_nor_leaves(dispatcher: Any) -> None:
    """Nor is one waited for that falls silent after its mistake."""
    ended: list[Outcome] = []
    recorder = Recorder()
    with Server(TCP(), dispatcher(), message(Lines(5))(bytes.upper), log=False, observers=[recorder]) as server:
        server.start()
        with socket.create_connection(server.address, timeout=10) as sock:
            sock.sendall(b"too long")
            ended.append(recorder.outcome(1))
    assert ended[0].status is Status.REFUSED


@pytest.mark.parametrize("dispatcher", DISPATCHERS.values(), ids=DISPATCHERS)
def test_cut_off(dispatcher: Any) -> None:
    """The end in the middle of a message is the peer's fault."""

    def client(sock: socket.socket) -> None:
        sock.sendall(b"one\ntw")
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == b"ONE\n"

    outcome = served(dispatcher, message(Lines())(bytes.upper), client)
    assert outcome.status is Status.REFUSED
    assert "the stream ended in the middle of a line" in str(outcome.error)


@pytest.mark.parametrize("dispatcher", DISPATCHERS.values(), ids=DISPATCHERS)
def test_a_function_that_fails(dispatcher: Any) -> None:
    """Its error is the outcome's, untouched, even one that a connection could have raised."""
    mine = ConnectionResetError("not the peer's")

    def fail(line: bytes) -> Iterator[bytes]:
        yield line
        raise mine

    def client(sock: socket.socket) -> None:
        sock.sendall(b"one\n")
        assert everything(sock) == b"one\n"

    outcome = served(dispatcher, message(Lines())(fail), client)
    assert (outcome.status, outcome.error) == (Status.FAILED, mine)


@pytest.mark.parametrize("dispatcher", DISPATCHERS.values(), ids=DISPATCHERS)
def test_a_state_that_cannot_be_made(dispatcher: Any) -> None:
    """A failing ``state`` is a failure of the handler, not of the peer."""
    mine = ConnectionRefusedError("the database is down")

    def make() -> None:
        raise mine

    @message(Lines(), state=make)
    def never(line: bytes, state: Any) -> None:
        """Not called."""

    def client(sock: socket.socket) -> None:
        sock.sendall(b"one\n")
        with pytest.raises(ConnectionError):  # what was sent is not read any more
            assert everything(sock) == b""
            raise ConnectionError

    outcome = served(dispatcher, never, client)
    assert (outcome.status, outcome.error) == (Status.FAILED, mine)


def test_chunks_are_served_as_they_come() -> None:
    """With `Chunks` a reply does not wait for anything but bytes."""

    def client(sock: socket.socket) -> None:
        for each in (b"a", b"bc"):
            sock.sendall(each)
            assert sock.recv(10) == each.upper()

    assert served(Thread, message(Chunks())(bytes.upper), client).status is Status.COMPLETED


def test_memory() -> None:
    """Over the memory transport the error reply arrives as well."""
    handler = message(Lines(10, error_reply=b"too long\n"))(bytes.upper)
    with Server(transport := Memory(), Sync(), handler, log=False) as server:
        server.start()
        with transport.connect() as client:
            client.settimeout(10)
            client.sendall(b"a\n" + bytes(1000))
            assert everything(client) == b"A\ntoo long\n"
