"""Route: waiting for the first bytes of connections, together and without a thread for each."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import Connection, Server, Status
from tricorn.client_hello import read_client_hello
from tricorn.events import JobStarted
from tricorn.peeking import FirstBytes, peek
from tricorn.strategies import Route, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP

Dial = Callable[..., socket.socket]
LOCAL = TCP("127.0.0.1", 0)


class Chooser:
    """``choose`` that notes what it was shown, and knows lines."""

    def __init__(self) -> None:
        self.shown: list[bytes] = []
        self.asked = threading.Condition()

    def __call__(self, connection: Any) -> str | None:
        data = peek(connection, 64)
        with self.asked:
            self.shown.append(data)
            self.asked.notify_all()
        if not data:
            return "silent"
        return "line" if b"\n" in data else None

    def wait(self, data: bytes) -> None:
        """Until it was shown ``data``."""
        with self.asked:
            assert self.asked.wait_for(lambda: data in self.shown, 10), self.shown


def greet(connection: Connection) -> None:
    """Names the thread, and returns what comes until the end or a line's end."""
    heard = b""
    while not heard.endswith(b"\n") and (more := connection.recv(100)):
        heard += more
    connection.send(threading.current_thread().name.rstrip("0123456789").encode() + b" " + heard)


def hangs_up(client: socket.socket) -> bool:
    """Whether the server closes it; what it had not read makes that a reset."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def choose() -> Chooser:
    return Chooser()


def served(choose: Any, recorder: Recorder, handler: Any = greet, **options: Any) -> Server:
    route = Route(choose, **{"peek": 64, "line": Thread(), "silent": ThreadPool(2), **options})
    server = Server(LOCAL, route, handler, observers=[recorder], log=False)
    server.bind()
    server.start()
    return server


def test_it_is_asked_again_as_bytes_come(dial: Dial, recorder: Recorder, choose: Chooser) -> None:
    """Until it can tell; each time it sees all there is, and nothing is asked twice."""
    with served(choose, recorder) as server:
        client = dial(server.address)
        for number, byte in enumerate(b"abc"):
            client.sendall(bytes([byte]))
            choose.wait(b"abc"[: number + 1])
        client.sendall(b"d\n")
        assert client.recv(100) == b"tricorn-thread abcd\n"
    assert choose.shown == [b"a", b"ab", b"abc", b"abcd\n"]


def test_bytes_that_are_not_enough_keep_nobody_busy(
    dial: Dial, recorder: Recorder, choose: Chooser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is looked at when something arrives, and not again and again meanwhile."""
    looks = []
    ready = FirstBytes.ready
    monkeypatch.setattr(FirstBytes, "ready", lambda first: looks.append(1) or ready(first))
    with served(choose, recorder) as server:
        client = dial(server.address, b"not yet")
        choose.wait(b"not yet")
        for _ in range(20):
            assert dial(server.address, b"x\n").recv(100) == b"tricorn-thread x\n"
        assert len(looks) <= 2 + 2 * 20
        client.sendall(b"\n")
        assert client.recv(100) == b"tricorn-thread not yet\n"
    assert choose.shown.count(b"not yet") == 1


def test_silent_clients_hold_up_nobody(dial: Dial, recorder: Recorder, choose: Chooser) -> None:
    """However many there are, even where everything is served in one thread."""
    with served(choose, recorder, line=Sync(), silent=Sync()) as server:
        silent = [dial(server.address) for _ in range(50)]
        recorder.wait(JobStarted, 50)
        assert dial(server.address, b"x\n").recv(100).endswith(b"x\n")
        assert recorder.outcome(1).status is Status.COMPLETED
        assert {job.stage.value for job in server.jobs()} == {"accepted"}
        for client in silent:
            client.sendall(b"y\n")
        assert all(client.recv(100).endswith(b"y\n") for client in silent)


def test_after_a_while_it_is_asked_with_nothing(dial: Dial, recorder: Recorder, choose: Chooser) -> None:
    """In some protocols the server speaks first."""

    def welcome(connection: Connection) -> None:
        connection.send(b"welcome\n")

    with served(choose, recorder, welcome, first_bytes_timeout=0.02) as server:
        assert dial(server.address).recv(100) == b"welcome\n"
    assert choose.shown == [b""]


def test_who_never_comes_to_the_point_is_refused(dial: Dial, recorder: Recorder, choose: Chooser) -> None:
    """When the time is over, with the reason."""
    with served(choose, recorder, first_bytes_timeout=0.05) as server:
        assert hangs_up(dial(server.address, b"well"))
        outcome = recorder.outcome(1)
        assert (outcome.status, type(outcome.error)) == (Status.REFUSED, type(None))
        assert outcome.detail == "choose could not tell from the first 4 bytes that came within 0.05 s"
        assert dial(server.address, b"x\n").recv(100) == b"tricorn-thread x\n"


def test_more_than_was_asked_for_is_not_waited_for(dial: Dial, recorder: Recorder, choose: Chooser) -> None:
    """Once ``peek`` bytes are there it has to tell."""
    with served(choose, recorder, peek=4) as server:
        client = dial(server.address, b"abc")
        choose.wait(b"abc")
        client.sendall(b"d")
        assert recorder.outcome(1).detail == "choose could not tell from the first 4 bytes"


def test_a_half_closed_connection_says_no_more(dial: Dial, recorder: Recorder, choose: Chooser) -> None:
    """It is asked a last time, and the reply still arrives."""

    def choose_at_last(connection: Connection) -> str | None:
        choose(connection)
        return "line" if len(choose.shown) == 2 else None

    with served(choose_at_last, recorder) as server:
        client = dial(server.address, b"ab")
        choose.wait(b"ab")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"tricorn-thread ab"
    assert choose.shown == [b"ab", b"ab"]


def test_a_client_that_leaves_at_once_is_served_its_end(dial: Dial, recorder: Recorder, choose: Chooser) -> None:
    """As everywhere else: the handler finds nothing to read."""
    with served(choose, recorder) as server:
        dial(server.address).close()
        assert recorder.outcome(1).status is Status.COMPLETED
    assert choose.shown == [b""]


def test_a_reset_while_waiting(dial: Dial, recorder: Recorder, choose: Chooser) -> None:
    """The handler meets it, and the outcome is that of a peer that went away."""
    with served(choose, recorder) as server:
        client = dial(server.address)
        recorder.wait(JobStarted)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert recorder.outcome(1).status is Status.DISCONNECTED
        assert dial(server.address, b"x\n").recv(100) == b"tricorn-thread x\n"


@pytest.mark.parametrize("in_place", [False, True])
def test_a_drain_ends_who_has_said_nothing(dial: Dial, recorder: Recorder, choose: Chooser, in_place: bool) -> None:
    """At once, and without the handler; who has said something is served, or refused if that tells nothing."""
    called = []
    with served(choose, recorder, called.append, silent=Sync() if in_place else Thread()) as server:
        idle = [dial(server.address) for _ in range(5)]
        begun = dial(server.address, b"ab")
        choose.wait(b"ab")
        recorder.wait(JobStarted, 6)
        report = server.drain(30)
        assert all(hangs_up(client) for client in (*idle, begun))
    assert (called, report.completed, report.refused) == ([], 5, 1)
    assert report.duration < 30


def test_a_deadline_that_has_passed_leaves_nobody_without_an_outcome(
    dial: Dial, recorder: Recorder, choose: Chooser
) -> None:
    """``close`` gives no time at all."""
    with served(choose, recorder) as server:
        for _ in range(5):
            dial(server.address)
        recorder.wait(JobStarted, 5)
        server.close()
    assert server.report is not None
    recorder.check_books(server.report)


def hello(server_name: str, *protocols: str) -> bytes:
    """What a TLS client says first."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(protocols)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=server_name).do_handshake()
    return outgoing.read()


def by_hello(connection: Connection) -> str | None:
    found = read_client_hello(peek(connection, 16384))
    if found is None:
        return None
    return "line" if found.server_name == "a.example" and "h2" in found.protocols else "silent"


@pytest.mark.parametrize("piece", [1, 100, 100_000])
def test_by_server_name_and_protocol(dial: Dial, recorder: Recorder, piece: int) -> None:
    """Out of the hello, which the handler then reads, however small the pieces are that it comes in."""

    def name(connection: Connection) -> None:
        connection.send(threading.current_thread().name.rstrip("0123456789").encode() + b" " + connection.recv(100_000))

    with served(by_hello, recorder, name, peek=16384) as server:
        for said, thread in (
            (hello("a.example", "h2"), b"tricorn-thread "),
            (hello("a.example"), b"tricorn-worker- "),
            (hello("b.example", "h2"), b"tricorn-worker- "),
        ):
            client = dial(server.address)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(said), piece):
                client.sendall(said[at : at + piece])
            heard = b""
            while more := client.recv(100_000):
                heard += more
            assert heard == thread + said


def test_what_is_no_hello_costs_its_peer_alone(dial: Dial, recorder: Recorder) -> None:
    """Refused, with what was wrong."""
    with served(by_hello, recorder, peek=16384) as server:
        assert hangs_up(dial(server.address, b"GET / HTTP/1.1\r\n\r\n"))
        outcome = recorder.outcome(1)
        assert (outcome.status, outcome.detail) == (Status.REFUSED, "choose raised")
        assert "the first byte of a record is 71" in str(outcome.error)
