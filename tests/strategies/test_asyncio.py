"""Asyncio: coroutine handlers and message handlers on one loop, asyncio's and uvloop's."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import Any

import pytest

from tricorn import Server
from tricorn.errors import AuthenticationError, ConfigurationError, IncompatibleParts, StateError
from tricorn.events import JobFinished, JobStarted, Status
from tricorn.handlers import Lines, message
from tricorn.strategies import Asyncio, ProcessPool
from tricorn.testing import check_dispatcher
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, Memory

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


# -- what it is


@pytest.mark.slow
def test_laws(dispatcher: Asyncio) -> None:
    """It keeps every law, for connections, datagrams and items."""
    check_dispatcher(lambda: Asyncio(loop=dispatcher.loop))


def test_by_name(dial: Any, serve: Any) -> None:
    """By name, with options as text, and the loop that was asked for."""
    pytest.importorskip("uvloop")
    seen = []

    async def handler(connection: Any) -> None:
        seen.append(type(asyncio.get_running_loop()).__module__)

    server = serve("tcp://127.0.0.1:0", "asyncio?loop=uvloop&limit=5&high_water=1000&read_ahead=10", handler)
    assert server.dispatcher.concurrency == 5
    assert dial(server.address).recv(1) == b""
    assert seen == ["uvloop"]


def test_loop_factory(dial: Any, serve: Any) -> None:
    """Any callable that makes a loop will do."""
    made = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(asyncio.new_event_loop())
        return made[-1]

    async def handler(connection: Any) -> None:
        await connection.send(b"%d" % made.index(asyncio.get_running_loop()))

    server = serve(TCP("127.0.0.1", 0), Asyncio(factory), handler)
    assert dial(server.address).recv(1) == b"0"
    server.drain()
    assert made[0].is_closed()


def test_uvloop_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where uvloop is not installed, the error names the extra."""
    monkeypatch.setattr("tricorn.strategies.asyncio_loop.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"uvloop is not installed; pip install 'tricorn\[uvloop\]'"):
        Asyncio(loop="uvloop")


@pytest.mark.parametrize(
    "options",
    [
        {"loop": "trio"},
        {"loop_factory": 3},
        {"loop_factory": asyncio.new_event_loop, "loop": "uvloop"},
        {"limit": 0},
        {"high_water": -1},
        {"read_ahead": 0},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    """What cannot be is refused when it is built."""
    with pytest.raises(ConfigurationError, match="Asyncio"):
        Asyncio(**options)


def test_blocking_handlers_are_refused() -> None:
    """A function or a class would hold everybody up."""

    class Handler:
        def __init__(self, request: Any, client_address: Any, server: Any) -> None:
            """Never made."""

    for handler in (lambda connection: None, Handler):
        with pytest.raises(IncompatibleParts, match=r"Asyncio calls only .*; use ThreadPool \(thread-pool\)$"):
            Server(TCP("127.0.0.1", 0), Asyncio(), handler)
    with pytest.raises(IncompatibleParts, match="waits for descriptors"):
        Server(Memory(), Asyncio(), shout)


def test_inside_a_running_loop() -> None:
    """serve_forever() in a coroutine would need a loop inside a loop."""

    async def main() -> None:
        with pytest.raises(StateError, match="runs one already; use Server.start"):
            Server(TCP("127.0.0.1", 0), Asyncio(), shout, log=False).serve_forever()

    asyncio.run(main())


def test_another_server(dial: Any, serve: Any) -> None:
    """The same dispatcher serves another server when the first is done."""
    dispatcher = Asyncio()
    first = serve(TCP("127.0.0.1", 0), dispatcher, shout)
    assert dial(first.address, b"one\n").recv(4) == b"ONE\n"
    first.drain()
    second = serve(TCP("127.0.0.1", 0), dispatcher, shout)
    assert dial(second.address, b"two\n").recv(4) == b"TWO\n"


# -- peers


def test_reset_by_the_peer(dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder) -> None:
    """A peer that resets the connection is no failure of the handler's, of either shape."""
    for number, handler in enumerate((shout, loud)):
        server = serve(TCP("127.0.0.1", 0), Asyncio(loop=dispatcher.loop), handler)
        client = dial(server.address, b"hi\n")
        assert hear(client, 3) == b"HI\n"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        outcome = recorder.outcome(number + 1)
        assert outcome.status is Status.DISCONNECTED, outcome.error
        assert isinstance(outcome.error, ConnectionResetError)


def test_hasty_peers(dispatcher: Asyncio, dial: Any, serve: Any) -> None:
    """Peers that are gone before the loop looks at them, politely or not, leave nothing behind."""
    for handler in (shout, loud):
        server = serve(TCP("127.0.0.1", 0), Asyncio(loop=dispatcher.loop), handler)
        for n in range(100):
            client = dial(server.address, b"hi\n" if n % 3 else b"")
            if n % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert hear(dial(server.address, b"last\n"), 5) == b"LAST\n"
        report = server.drain()
        assert (report.accepted, report.failed, report.cancelled) == (101, 0, 0), str(report)
        assert report.completed + report.disconnected == 101


def test_authenticator(dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder) -> None:
    """It runs before anything is read, gives the handler its identity, and turns others away."""
    allowed = True

    def by_address(connection: Any) -> Any:
        if not allowed:
            raise AuthenticationError("not today")
        return f"who is at {connection.peer[0]}"

    async def tell(connection: Any) -> None:
        await connection.send(connection.identity.encode())

    @message(Lines())
    def tell_line(line: bytes, identity: str) -> bytes:
        return identity.encode()

    for handler in (tell, tell_line):
        allowed = True
        server = serve(TCP("127.0.0.1", 0), Asyncio(loop=dispatcher.loop), handler, authenticate=by_address)
        assert hear(dial(server.address, b"who?\n"), 19) == b"who is at 127.0.0.1"
        allowed = False
        client = dial(server.address)
        assert client.recv(1) == b""
        server.drain()
    refused = [each.outcome for each in recorder.of(JobFinished) if each.outcome.status is Status.REFUSED]
    assert [str(outcome.error) for outcome in refused] == ["not today"] * 2


def test_limit(dial: Any, serve: Any, recorder: Recorder) -> None:
    """The excess waits in the kernel, and is served when there is room."""
    server = serve(TCP("127.0.0.1", 0), Asyncio(limit=2), shout)
    clients = [dial(server.address, b"x\n") for _ in range(5)]
    for client in clients:
        assert hear(client, 2) == b"X\n"
        client.close()
    recorder.wait(JobFinished, 5)
    assert recorder.most_at_once() == 2


def test_urgent_bytes_are_not_kept_to(dial: Any, serve: Any, recorder: Recorder) -> None:
    """Where the transport was told to look after urgent bytes, the loop says that it does not."""
    server = serve(TCP("127.0.0.1", 0, urgent="refuse"), Asyncio(), shout)
    assert dial(server.address).recv(1) == b""
    assert "does not keep to urgent='refuse'" in str(recorder.outcome(1).error)


def test_in_worker_processes(tmp_path: Any, dial: Any, script: Any) -> None:
    """Each worker of a process pool runs a loop of its own."""
    program = script("""
        import socket, os
        from tricorn import Server
        from tricorn.strategies import Asyncio, ProcessPool
        from tricorn.transports import TCP

        async def tell(connection):
            await connection.send(b"%d" % os.getpid())

        with Server(TCP("127.0.0.1", 0), ProcessPool(2, Asyncio()), tell) as server:
            server.start()
            for _ in range(10):
                with socket.create_connection(server.address, timeout=10) as client:
                    assert int(client.recv(100)) != os.getpid()
        print(server.report.completed, server.report.clean)
    """)
    out, err = program.communicate(timeout=30)
    assert (out, err) == ("10 True\n", "")
    assert ProcessPool(2, Asyncio()).shapes == Asyncio.shapes


# -- the time before the handler and after it


def test_the_end_is_seen_first(dispatcher: Asyncio, dial: Any, serve: Any) -> None:
    """When an observer is told of the outcome, the peer has seen the end."""
    seen: list[bytes] = []

    def look(event: Any) -> None:
        if isinstance(event, JobFinished):
            client.setblocking(False)
            seen.append(client.recv(100))
            seen.append(client.recv(100))
            told.set()

    told = threading.Event()
    server = Server(TCP("127.0.0.1", 0), dispatcher, loud, observers=[look], log=False)
    with server:
        server.start()
        client = dial(server.address, b"last words\n")
        client.shutdown(socket.SHUT_WR)
        assert told.wait(BOUND)
    assert seen == [b"LAST WORDS\n", b""]


def test_everything_is_sent_before_the_end(dispatcher: Asyncio, dial: Any, serve: Any, recorder: Recorder) -> None:
    """A handler may return with much unsent; the job ends when the peer has it."""

    async def much(connection: Any) -> None:
        connection.transport.write(b"x" * 5_000_000)

    server = serve(TCP("127.0.0.1", 0), dispatcher, much)
    client = dial(server.address)
    recorder.wait(JobStarted)
    assert not recorder.of(JobFinished)
    assert len(hear(client, 6_000_000)) == 5_000_000
    assert recorder.outcome(1).status is Status.COMPLETED


def test_left_behind_by_handlers(dispatcher: Asyncio, dial: Any, serve: Any) -> None:
    """Tasks, generators and threads that handlers leave running are ended with the server."""
    ended = []

    async def forever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("task")

    async def numbers() -> Any:
        try:
            while True:
                yield 1
        finally:
            ended.append("generator")

    kept: list[Any] = []

    async def handler(connection: Any) -> None:
        kept.append(asyncio.get_running_loop().create_task(forever()))
        kept.append(numbers())
        assert await anext(kept[-1]) == 1
        await connection.send(b"%d" % await asyncio.to_thread(lambda: 7))

    server = serve(TCP("127.0.0.1", 0), dispatcher, handler)
    assert dial(server.address).recv(1) == b"7"
    assert server.drain().clean
    assert sorted(ended) == ["generator", "task"]


def test_idle_clients(dispatcher: Asyncio, dial: Any, serve: Any) -> None:
    """They do not hold up the end, and see it."""
    server = serve(TCP("127.0.0.1", 0), dispatcher, loud)
    clients = [dial(server.address) for _ in range(20)]
    for client in clients:
        client.sendall(b"x\n")
        assert hear(client, 2) == b"X\n"
    report = server.drain()  # at its deadline they would be cancelled
    assert report.clean and report.completed == 20
    assert [client.recv(1) for client in clients] == [b""] * 20
