"""Executor: order, room, and all kinds of requests."""

from __future__ import annotations

import contextvars
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tricorn import Server
from tricorn.events import JobFinished, Status
from tricorn.handlers import Chunks, Lines, message
from tricorn.strategies import Executor, Route, Thread
from tricorn.testing.items import Hub, Items
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP, UnixStream

pytestmark = pytest.mark.usefixtures("servants_of_multiprocessing")

slow = pytest.mark.slow

Dial = Callable[..., socket.socket]


KINDS = [
    pytest.param(lambda: Executor(kind="thread", workers=2), id="thread"),
    pytest.param(lambda: Executor(kind="process", workers=2), id="process", marks=slow),
]


@contextmanager
def served(dispatcher: Executor, handler: Any, transport: Any = None, **options: Any) -> Iterator[Any]:
    with Server(transport or TCP("127.0.0.1", 0), dispatcher, handler, log=False, **options) as server:
        server.start()
        yield server


def ask(client: socket.socket, line: str) -> str:
    client.sendall(line.encode() + b"\n")
    return hear(client)


def hear(client: socket.socket) -> str:
    """One line, read byte by byte so that nothing is read ahead."""
    data = b""
    while not data.endswith(b"\n"):
        more = client.recv(1)
        if not more:
            return data.decode()
        data += more
    return data.decode().rstrip("\n")


def rest(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


class Counting(futures.ThreadPoolExecutor):
    """Notes how many calls were in it at most."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.now = self.most = 0
        self.lock = threading.Lock()

    def submit(self, *args: Any, **options: Any) -> Any:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        future = super().submit(*args, **options)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Any) -> None:
        with self.lock:
            self.now -= 1


def test_bounded_in_flight(handlers: Any, dial: Dial) -> None:
    """No more messages than ``max_in_flight`` are submitted at once, and all are answered."""
    with Counting(2) as pool, served(Executor(pool, max_in_flight=3, pipeline=4), handlers.obey) as server:
        clients = [dial(server.addresses[0], b"".join(b"say %d\n" % n for n in range(50))) for _ in range(5)]
        for client in clients:
            assert [hear(client) for _ in range(50)] == [str(n) for n in range(50)]
        assert 1 < pool.most <= 3


def test_a_full_pool_holds_nobody_but_those_who_wait_for_it(dial: Dial) -> None:
    """While all room is taken, connections are accepted, and answered when there is room again."""
    gate = threading.Event()
    begun = threading.Semaphore(0)

    @message(Lines())
    def wait(line: bytes) -> bytes:
        begun.release()
        gate.wait(10)
        return line

    with served(Executor(kind="thread", workers=1, max_in_flight=2), wait) as server:
        clients = [dial(server.addresses[0], b"%d\n" % n) for n in range(6)]
        assert begun.acquire(timeout=10)
        gate.set()
        assert [hear(client) for client in clients] == [str(n) for n in range(6)]


def test_one_message_of_a_peer_at_a_time(dial: Dial) -> None:
    """By default a message is begun when the one before it is answered, though there are workers free."""
    at_work: list[int] = []
    together = []

    @message(Lines())
    def work(line: bytes) -> bytes:
        at_work.append(1)
        together.append(len(at_work))
        at_work.pop()
        return line

    with served(Executor(kind="thread", workers=4), work) as server:
        client = dial(server.addresses[0], b"x\n" * 200)
        for _ in range(200):
            hear(client)
    assert set(together) == {1}


def test_a_pipeline(dial: Dial) -> None:
    """With ``pipeline=2`` two are worked on at once, and a reply waits for those before it."""
    second = threading.Event()

    @message(Lines())
    def work(line: bytes) -> bytes:
        if line == b"1":
            assert second.wait(10)
        else:
            second.set()
        return line

    with served(Executor(kind="thread", workers=2, pipeline=2), work) as server:
        client = dial(server.addresses[0], b"1\n2\n")
        assert [hear(client), hear(client)] == ["1", "2"]


def test_an_error_in_a_pipeline(dial: Dial, recorder: Recorder) -> None:
    """The reply of a later message, ready before the error of an earlier one, is not sent."""
    second = threading.Event()

    @message(Lines())
    def work(line: bytes) -> bytes:
        if line == b"1":
            second.wait(10)
            raise ValueError("the first")
        second.set()
        return line

    with served(Executor(kind="thread", workers=2, pipeline=2), work, observers=[recorder]) as server:
        assert rest(dial(server.addresses[0], b"1\n2\n")) == b""
        assert str(recorder.outcome(1).error) == "the first"


def test_a_peer_that_does_not_read(handlers: Any, dial: Dial) -> None:
    """It is not read any more itself, and others are served; when it reads, it gets everything."""
    size, count = 100_000, 60
    with Counting(2) as pool, served(Executor(pool, high_water=1000), handlers.obey) as server:
        greedy = dial(server.addresses[0])
        sending = threading.Thread(target=greedy.sendall, args=(b"blow %d\n" % size * count,))
        sending.start()
        other = dial(server.addresses[0])
        for n in range(50):
            assert ask(other, f"say {n}") == str(n)
        sending.join(10)
        greedy.shutdown(socket.SHUT_WR)
        assert len(rest(greedy)) == (size + 1) * count


# -- kinds of requests


def test_half_close(handlers: Any, dial: Dial) -> None:
    """A peer that sends nothing more still gets every reply."""
    with served(Executor(kind="thread"), handlers.obey) as server:
        client = dial(server.addresses[0], b"say one\nsay two\n")
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == b"ONE\nTWO\n"


@pytest.mark.parametrize("abruptly", [False, True])
def test_a_peer_that_leaves(abruptly: bool, handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """Its message is worked on for nothing; others are served."""
    with served(Executor(kind="thread"), handlers.obey, observers=[recorder]) as server:
        with socket.create_connection(server.addresses[0]) as leaver:
            leaver.sendall(b"blow 100000\n" * 50)
            hear(leaver) if abruptly else None
            if abruptly:
                leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert recorder.outcome(1).status is Status.DISCONNECTED
        assert ask(dial(server.addresses[0]), "say on") == "ON"


def test_unix_sockets(handlers: Any, tmp_path: Path) -> None:
    """They are connections like all others."""
    path = str(tmp_path / "s")
    with served(Executor(kind="thread"), handlers.obey, UnixStream(path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert ask(client, "say on") == "ON"


@pytest.mark.parametrize("make", KINDS)
def test_datagrams(make: Callable[[], Executor], handlers: Any, recorder: Recorder) -> None:
    """Each is decoded by itself, and its replies leave in one packet."""
    with (
        served(make(), handlers.obey, UDP("127.0.0.1", 0), observers=[recorder]) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(10)
        client.connect(server.addresses[0])
        client.send(b"say one\nsay two")
        assert client.recv(100) == b"ONE\nTWO\n"
        client.send(b"say one\nraise value\nsay two")
        assert client.recv(100) == b"ONE\n"
        assert recorder.wait(JobFinished, 2)[1].outcome.status is Status.FAILED
        client.send(b"say three")
        assert client.recv(100) == b"THREE\n"


def test_empty_packets(recorder: Recorder) -> None:
    """An empty packet is no end of anything: the next one is served as ever."""

    @message(Chunks())
    def count(data: bytes) -> bytes:
        return b"%d" % len(data)

    with (
        served(Executor(kind="thread"), count, UDP("127.0.0.1", 0), observers=[recorder]) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(10)
        client.connect(server.addresses[0])
        client.send(b"")
        client.send(b"abc")
        assert [each.outcome.status for each in recorder.wait(JobFinished, 2)] == [Status.COMPLETED] * 2
        assert {client.recv(10), client.recv(10)} == {b"0", b"3"}


def test_items(handlers: Any, recorder: Recorder) -> None:
    """An item's value is a message as it is; a failure puts it back."""
    hub = Hub()
    try:
        with served(Executor(kind="thread"), handlers.obey, Items(hub.inbox), observers=[recorder]):
            hub.put(1, b"say on")
            assert (hub.hear(1), hub.hear(1)) == (b"ON\n", b"ack\n")
            hub.put(2, b"raise value")
            assert hub.hear(2) == b"nack\n"
    finally:
        hub.close()


def test_single_jobs(handlers: Any, dial: Dial) -> None:
    """`Server.handle_request` and `Route` give it one job at a time."""
    with Server(TCP("127.0.0.1", 0), Executor(kind="thread"), handlers.obey, log=False) as server:
        for _ in range(2):
            client = dial(server.addresses[0], b"say on\n")
            assert server.handle_request(10)
            assert hear(client) == "ON"


def test_behind_a_route(handlers: Any, dial: Dial) -> None:
    """As one of several."""
    ours, there = Executor(kind="thread"), Thread()
    with served(Route(lambda request: "ours", ours=ours, there=there), handlers.obey) as server:  # type: ignore[arg-type]
        client = dial(server.addresses[0], b"say on\nsay off\n")
        assert [hear(client), hear(client)] == ["ON", "OFF"]


def test_datagrams_given_one_by_one(handlers: Any) -> None:
    """As many as may be in flight are taken; then giving another waits for room."""
    with (
        Server(UDP("127.0.0.1", 0), Executor(kind="thread", max_in_flight=1), handlers.packet, log=False) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(10)
        client.connect(server.addresses[0])
        for n in range(5):
            client.send(b"ab%d" % n)
        for _ in range(5):
            assert server.handle_request(10)
        assert {client.recv(10) for _ in range(5)} == {b"%dba" % n for n in range(5)}


def test_contexts(dial: Dial) -> None:
    """On threads of this program, each message sees a copy of the context that the server was built in."""
    letter: contextvars.ContextVar[str] = contextvars.ContextVar("letter", default="none")
    letter.set("base")

    @message(Lines())
    def tell(line: bytes) -> bytes:
        seen = letter.get()
        letter.set("changed")
        return seen.encode()

    with served(Executor(kind="thread", workers=1), tell) as server:
        client = dial(server.addresses[0])
        assert [ask(client, "x"), ask(client, "x")] == ["base", "base"]
