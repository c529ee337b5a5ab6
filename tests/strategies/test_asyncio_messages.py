"""Asyncio: message handlers and datagrams."""

from __future__ import annotations

import socket
from contextvars import ContextVar
from typing import Any

import pytest

from tricorn.errors import FramingError
from tricorn.events import JobFinished, Stage, Status
from tricorn.handlers import Lines, message
from tricorn.strategies import Asyncio
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP, UnixDatagram, UnixStream

BOUND = 10.0


@pytest.fixture
def dispatcher(loop: Any) -> Asyncio:
    return Asyncio(loop=loop)


async def shout(connection: Any) -> None:
    async for line in connection:
        await connection.send(line.upper())


@message(Lines())
def loud(line: bytes) -> bytes:
    return line.upper()


def hear(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return data


# -- message handlers


def test_messages(dispatcher: Asyncio, dial: Any, serve: Any, tmp_path: Any, recorder: Recorder) -> None:
    """Over TCP and Unix sockets, cut anywhere, several at once, and a reply to the last one after the end."""
    server = serve([TCP("127.0.0.1", 0), UnixStream(str(tmp_path / "s"))], dispatcher, loud)
    client = dial(server.address, b"a\nb")
    assert hear(client, 2) == b"A\n"
    client.sendall(b"c\nd\n")
    assert hear(client, 5) == b"BC\nD\n"
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    with socket.socket(socket.AF_UNIX) as unix:
        unix.settimeout(BOUND)
        unix.connect(server.addresses[1])
        unix.sendall(b"over unix\n")
        assert hear(unix, 10) == b"OVER UNIX\n"
    assert [each.outcome.status for each in recorder.wait(JobFinished, 2)] == [Status.COMPLETED] * 2


def test_message_context_and_state(dispatcher: Asyncio, dial: Any, serve: Any) -> None:
    """A conversation has one copy of the base context, and one state, of its own."""
    letter: ContextVar[str] = ContextVar("letter", default="none")
    letter.set("base")

    @message(Lines())
    def remember(line: bytes, state: dict[str, int]) -> bytes:
        state["n"] = state.get("n", 0) + 1
        before = letter.get()
        letter.set(line.decode())
        return f"{before} {state['n']}".encode()

    server = serve(TCP("127.0.0.1", 0), dispatcher, remember)
    for _ in range(2):
        client = dial(server.address, b"x\ny\n")
        assert hear(client, 11) == b"base 1\nx 2\n"
        client.sendall(b"z\n")
        assert hear(client, 4) == b"y 3\n"


def test_framing_broken(dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder) -> None:
    """Too long a line: the peer gets to read why, whatever else it has sent, and it is no failure of the handler's."""
    handler = message(Lines(max_length=10, error_reply=b"too long\n"))(lambda line: line)
    server = serve(TCP("127.0.0.1", 0), dispatcher, handler)
    client = dial(server.address, b"short\n" + b"x" * 100_000)
    assert hear(client, 15) == b"short\ntoo long\n"
    client.close()
    outcome = recorder.outcome(1)
    assert (outcome.status, type(outcome.error)) == (Status.REFUSED, FramingError)


def test_function_raises(dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder) -> None:
    """What was answered before is sent, and the error is in the outcome."""

    @message(Lines())
    def divide(line: bytes) -> bytes:
        return b"%d" % (100 // int(line))

    server = serve(TCP("127.0.0.1", 0), dispatcher, divide)
    client = dial(server.address, b"5\n0\n7\n")
    assert hear(client, 100) == b"20\n"
    outcome = recorder.outcome(1)
    assert (outcome.status, outcome.stage) == (Status.FAILED, Stage.HANDLER)
    assert isinstance(outcome.error, ZeroDivisionError)


def test_a_peer_that_does_not_read(dispatcher: Asyncio, dial: Any, serve: Any) -> None:
    """It is not read any more itself, and holds up nobody; when it reads, it gets everything."""
    taken = 0

    @message(Lines())
    def blow_up(line: bytes) -> bytes:
        nonlocal taken
        taken += 1
        return line * 10

    server = serve(TCP("127.0.0.1", 0), dispatcher, blow_up)
    lazy, busy = dial(server.address), dial(server.address)
    lazy.setblocking(False)
    lines, sent = b"0123456789" * 10 + b"\n", 0
    lines *= 1000
    while True:  # until its input is left in the kernel, too
        try:
            sent += lazy.send(lines[sent % len(lines) :])
        except BlockingIOError:
            before = taken
            busy.sendall(b"quick\n")
            assert hear(busy, 51) == b"quick" * 10 + b"\n"
            if taken == before + 1:
                break
    whole = sent // 101
    assert taken < whole
    lazy.settimeout(BOUND)
    left = whole * 1001
    while left:
        left -= len(lazy.recv(min(left, 1_000_000)))
    assert taken > whole


# -- datagrams and items


@pytest.mark.parametrize("shape", ["coroutine", "message"])
def test_datagrams(dispatcher: Asyncio, serve: Any, shape: str) -> None:
    """One packet in, one out."""

    async def packet(datagram: Any) -> None:
        assert datagram.local is not None
        assert (datagram.truncated, datagram.id) == (False, 1)
        assert datagram.peer == client.getsockname()
        assert await datagram.reply(datagram.data.upper()) == 5

    server = serve(UDP("127.0.0.1", 0), dispatcher, packet if shape == "coroutine" else loud)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(BOUND)
        client.connect(server.address)
        client.send(b"pack\n")
        assert client.recv(100) == b"PACK\n"
    assert server.drain().completed == 1


@pytest.mark.parametrize("shape", ["coroutine", "message"])
def test_no_room_for_a_reply(dispatcher: Asyncio, serve: Any, shape: str, tmp_path: Any) -> None:
    """A Unix client that does not read has its replies wait, and nobody else's."""

    async def packet(datagram: Any) -> None:
        await datagram.reply(datagram.data.upper())

    server = serve(UnixDatagram(str(tmp_path / "s")), dispatcher, packet if shape == "coroutine" else loud)

    def client(name: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.settimeout(BOUND)
        sock.bind(str(tmp_path / name))
        sock.connect(server.address)
        return sock

    with client("lazy") as lazy, client("busy") as busy:
        for _ in range(100):  # more than its queue holds: net.unix.max_dgram_qlen
            lazy.send(b"x\n")
            busy.send(b"y\n")
            assert busy.recv(10) == b"Y\n"
        assert [lazy.recv(10) for _ in range(100)] == [b"X\n"] * 100
    report = server.drain()
    assert (report.completed, report.accepted) == (200, 200)
