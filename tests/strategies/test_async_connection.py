"""AsyncConnection: what a coroutine handler can do with its connection."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from tricorn import Server
from tricorn.connection import Credentials
from tricorn.errors import FramingError, StateError
from tricorn.events import Status
from tricorn.strategies import Asyncio
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UnixStream

BOUND = 10.0


@pytest.fixture
def meet(loop: Any, dial: Any, recorder: Recorder, nothing_left_behind: None) -> Iterator[Callable[..., Any]]:
    """Serve one handler, and return a client."""
    servers: list[Server] = []

    def start(handler: Any, words: bytes = b"", transport: Any = None, **options: Any) -> Any:
        dispatcher = Asyncio(loop=loop, **options)
        server = Server(transport or TCP("127.0.0.1", 0), dispatcher, handler, observers=[recorder], log=False)
        servers.append(server)
        server.start()
        return dial(server.address, words) if transport is None else server

    yield start
    for server in servers:
        server.close()


def hear(client: socket.socket, size: int = 1_000_000) -> bytes:
    data = b""
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return data


def test_what_it_is(meet: Any, recorder: Recorder) -> None:
    """Both addresses, a number, no identity, no TLS; and the transport for the rest."""
    seen: dict[str, Any] = {}

    async def handler(connection: Any) -> None:
        names = ("peer", "local", "id", "identity", "deadline", "draining")
        seen.update({name: getattr(connection, name) for name in names})
        names = ("server_name", "alpn", "certificate", "credentials")
        seen.update({name: getattr(connection, name) for name in names})
        assert connection.transport.get_extra_info("peername") == connection.peer

    client = meet(handler)
    assert hear(client) == b""
    assert recorder.outcome(1).error is None
    assert seen.pop("peer") == client.getsockname()
    assert seen.pop("local") == client.getpeername()
    assert (seen.pop("id"), seen.pop("draining")) == (1, False)
    assert set(seen.values()) == {None}


def test_credentials(meet: Any, tmp_path: Any, recorder: Recorder) -> None:
    """On a Unix socket the kernel says who it is."""
    seen = []

    async def handler(connection: Any) -> None:
        seen.append(connection.credentials)

    server = meet(handler, transport=UnixStream(str(tmp_path / "s")))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server.address)
        assert client.recv(1) == b""
    assert seen == [Credentials(os.getpid(), os.getuid(), os.getgid())]


def test_recv(meet: Any) -> None:
    """At most as many bytes as asked for, what has arrived, and the end for ever."""
    seen: list[bytes] = []

    async def handler(connection: Any) -> None:
        seen.extend([await connection.recv(2), await connection.recv(1)])
        async for chunk in connection.chunks():
            seen.append(chunk)
        seen.extend([await connection.recv(), await connection.recv()])
        with pytest.raises(ValueError, match="at least one byte"):
            await connection.recv(0)
        await connection.send(bytearray(b"still"))
        await connection.send(memoryview(b" open"))

    client = meet(handler, b"abcdef")
    client.shutdown(socket.SHUT_WR)
    assert hear(client) == b"still open"
    assert seen[:2] == [b"ab", b"c"]
    assert b"".join(seen) == b"abcdef"
    assert seen[-2:] == [b"", b""]


def test_reading_by_shape(meet: Any, recorder: Recorder) -> None:
    """Lines, delimiters, counts; each tells the end between two messages by b''."""
    seen: list[bytes] = []

    async def handler(connection: Any) -> None:
        seen.append(await connection.readline())
        seen.append(await connection.readuntil(b"--"))
        seen.append(await connection.readexactly(3))
        seen.append(await connection.readexactly(0))
        seen.extend([line async for line in connection])
        seen.append(await connection.readline())
        seen.append(await connection.readuntil(b"x"))
        seen.append(await connection.readexactly(1))

    client = meet(handler)
    for byte in b"line\nuntil-or--123\nrest\nunterminated":
        client.sendall(bytes([byte]))
    client.shutdown(socket.SHUT_WR)
    assert hear(client) == b""
    assert recorder.outcome(1).error is None
    assert seen == [b"line\n", b"until-or--", b"123", b"", b"\n", b"rest\n", b"unterminated", b"", b"", b""]


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda connection: connection.readline(10), b"x" * 100_000),
        (lambda connection: connection.readline(10), b"0123456789\n"),
        (lambda connection: connection.readuntil(b"\r\n", 10), b"012345678\r\n"),
        (lambda connection: connection.readuntil(b"\r\n"), b"cut off\r"),
        (lambda connection: connection.readexactly(4_000_000_000), b"cut off"),
    ],
)
def test_broken_framing(meet: Any, recorder: Recorder, read: Any, words: bytes) -> None:
    """Too long, or cut off by the end: the peer's fault, if the handler lets it through."""

    async def handler(connection: Any) -> None:
        await read(connection)

    client = meet(handler, words)
    client.shutdown(socket.SHUT_WR)
    outcome = recorder.outcome(1)
    assert (outcome.status, type(outcome.error)) == (Status.REFUSED, FramingError)


def test_empty_delimiter(meet: Any, recorder: Recorder) -> None:
    """That is the handler's mistake."""

    async def handler(connection: Any) -> None:
        await connection.readuntil(b"")

    meet(handler)
    assert recorder.outcome(1).status is Status.FAILED


def test_cancelled_receiving_loses_nothing(meet: Any) -> None:
    """A timeout in the middle of a line, and the line is there afterwards."""

    async def handler(connection: Any) -> None:
        for _ in range(3):
            try:
                async with asyncio.timeout(0.02):
                    await connection.readline()
            except TimeoutError:
                await connection.send(b"go on\n")
        await connection.send(await connection.readline())

    client = meet(handler, b"be")
    assert hear(client, 6) == b"go on\n"
    client.sendall(b"gin")
    assert hear(client, 12) == b"go on\n" * 2
    client.sendall(b"ning\n")
    assert hear(client) == b"beginning\n"


def test_two_receivers(meet: Any) -> None:
    """One at a time; the other is told."""

    async def handler(connection: Any) -> None:
        first = asyncio.get_running_loop().create_task(connection.recv())
        await asyncio.sleep(0)
        with pytest.raises(StateError, match="another coroutine receives"):
            await connection.recv()
        await connection.send(b"ready")
        await connection.send(await first)

    client = meet(handler)
    assert hear(client, 5) == b"ready"
    client.sendall(b"word")
    assert hear(client) == b"word"


def test_sending_waits_for_the_peer(meet: Any, recorder: Recorder) -> None:
    """No more than the high-water mark is kept for a peer that does not read; several may send meanwhile."""
    kept: list[int] = []

    async def handler(connection: Any) -> None:
        async def pour() -> None:
            for _ in range(200):
                await connection.send(b"x" * 65_536)
                kept.append(connection.transport.get_write_buffer_size())

        await asyncio.gather(pour(), pour())

    client = meet(handler, high_water=100_000)
    assert len(hear(client, 2 * 200 * 65_536)) == 2 * 200 * 65_536
    assert recorder.outcome(1).status is Status.COMPLETED
    assert max(kept) <= 100_000 + 2 * 65_536


def test_input_waits_for_the_handler(meet: Any) -> None:
    """No more than the read-ahead is taken in before the handler asks; then it gets everything."""
    asked, seen = threading.Event(), []

    async def handler(connection: Any) -> None:
        await asyncio.to_thread(asked.wait, BOUND)
        seen.append(len(connection._link.buffer))
        whole = 0
        async for chunk in connection.chunks():
            whole += len(chunk)
        await connection.send(b"%d" % whole)

    client = meet(handler, read_ahead=1000)
    client.setblocking(False)
    sent = 0
    while True:
        try:
            sent += client.send(b"x" * 100_000)
        except BlockingIOError:
            break
    asked.set()
    client.settimeout(BOUND)
    client.shutdown(socket.SHUT_WR)
    assert hear(client) == b"%d" % sent
    assert seen[0] < min(sent, 1000 + 262_144 + 1)  # and what one read of the loop brings


def test_send_eof(meet: Any) -> None:
    """The peer sees the end, and can go on sending."""

    async def handler(connection: Any) -> None:
        await connection.send(b"over")
        await connection.send_eof()
        seen.append(await connection.recv())
        told.set()

    seen: list[bytes] = []
    told = threading.Event()
    client = meet(handler)
    assert hear(client) == b"over"
    client.sendall(b"and out")
    assert told.wait(BOUND)
    assert seen == [b"and out"]


def test_close(meet: Any, recorder: Recorder) -> None:
    """It may be closed before the handler is done, twice; sending then fails, receiving has come to the end."""

    async def handler(connection: Any) -> None:
        await connection.send(b"bye")
        await connection.close()
        await connection.close()
        assert await connection.recv() == b""
        await connection.send(b"too late")

    assert hear(meet(handler)) == b"bye"
    outcome = recorder.outcome(1)
    assert (outcome.status, type(outcome.error)) == (Status.FAILED, StateError)


def test_reset_while_sending(meet: Any, recorder: Recorder) -> None:
    """A peer that is gone shows in send() too."""

    async def handler(connection: Any) -> None:
        while True:
            await connection.send(b"x" * 100_000)

    client = meet(handler)
    hear(client, 1)
    client.close()
    outcome = recorder.outcome(1)
    assert outcome.status is Status.DISCONNECTED
    assert isinstance(outcome.error, ConnectionError)


def test_an_error_of_its_own(meet: Any, recorder: Recorder) -> None:
    """An OSError of some other socket, or a CancelledError of some other task, is the handler's failure."""
    for number, raised in enumerate((ConnectionResetError("another's"), asyncio.CancelledError(), KeyboardInterrupt())):

        async def handler(connection: Any, raised: BaseException = raised) -> None:
            raise raised

        assert hear(meet(handler)) == b""
        outcome = recorder.outcome(number + 1)
        assert (outcome.status, outcome.error) == (Status.FAILED, raised)


def test_context(meet: Any) -> None:
    """Each handler has a fresh copy of the context in which the server was built, and its own tasks inherit it."""
    letter: ContextVar[str] = ContextVar("letter", default="none")
    letter.set("base")

    async def tell() -> bytes:
        return letter.get().encode()

    async def handler(connection: Any) -> None:
        await connection.send(letter.get().encode())
        letter.set("changed")
        await connection.send(await asyncio.get_running_loop().create_task(tell()))

    for _ in range(2):
        assert hear(meet(handler)) == b"basechanged"
