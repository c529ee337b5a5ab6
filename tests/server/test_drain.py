"""Draining: who may finish, who is cut off, and what the report says."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import DrainReport, Server, Stage, State, Status
from tricorn.contracts import Dispatcher
from tricorn.events import JobFinished, JobStarted, ServerStopping
from tricorn.strategies import Sync, Thread, ThreadPool
from tricorn.testing.bounds import in_thread
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP

Dial = Callable[[Any], socket.socket]
LOCAL = TCP("127.0.0.1", 0)

threads = pytest.mark.parametrize("dispatcher", [Sync, Thread, ThreadPool])


def echo(connection: Any) -> None:
    while data := connection.recv(100):
        connection.send(data)


def reset(client: socket.socket) -> None:
    """Close with a reset, as a peer that crashed: SO_LINGER of socket(7)."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def do_as_told(connection: Any) -> None:
    match connection.recv(100):
        case b"fail":
            raise ValueError
        case b"time out":
            connection.socket.settimeout(0.001)
            connection.recv(100)
        case b"wait":
            connection.send(b"waiting")
            connection.recv(100)


def test_report(dial: Dial, recorder: Recorder) -> None:
    """It counts every job of the server's life under how it ended."""
    closed: list[str] = []
    options: Any = {"verify": lambda _: not closed, "observers": [recorder], "log": False}
    with Server(LOCAL, ThreadPool(2), do_as_told, **options) as server:
        server.start()
        dial(server).sendall(b"complete")
        dial(server).sendall(b"fail")
        dial(server).sendall(b"time out")
        leaver = dial(server)
        leaver.sendall(b"wait")
        assert leaver.recv(100) == b"waiting"
        reset(leaver)
        recorder.wait(JobFinished, 4)
        closed.append("for today")
        assert dial(server).recv(1) == b""
        report = server.drain()
    assert report.duration >= 0
    assert report == DrainReport(
        report.duration, accepted=5, completed=1, failed=1, refused=1, disconnected=1, timed_out=1, cancelled=0, lost=0
    )
    assert report.clean
    assert str(report).endswith("5 accepted, 1 completed, 1 failed, 1 refused, 1 disconnected, 1 timed out")
    recorder.check_books(report)


def test_second_drain(dial: Dial) -> None:
    """A second drain, or close, returns the same report, which stays readable."""
    with Server(LOCAL, ThreadPool(1), echo) as server:
        server.start()
        report = server.drain()
        assert server.drain(0) is report
        assert server.report is report
        server.close()
    assert server.report is report


def test_two_at_once(dial: Dial, held: Any) -> None:
    """Two threads that drain at the same time get the same report."""
    with Server(LOCAL, ThreadPool(1), held) as server:
        server.start()
        assert dial(server).recv(4) == b"held"
        with in_thread(server.drain, "drain") as first, in_thread(server.drain, "drain") as second:
            held.free.set()
        assert first == second == [server.report]


def test_of_a_new_server() -> None:
    """A server that was never bound is closed by it, with nothing to report."""
    server = Server(LOCAL, ThreadPool(1), echo)
    assert server.drain().accepted == 0
    assert server.state is State.CLOSED


@threads
def test_running_request(dispatcher: Callable[[], Dispatcher], dial: Dial, held: Any, recorder: Recorder) -> None:
    """A running request may finish."""
    with Server(LOCAL, dispatcher(), held, observers=[recorder]) as server:
        server.start()
        client = dial(server)
        assert client.recv(4) == b"held"
        with in_thread(lambda: server.drain(30), "drain") as reports:
            assert recorder.wait(ServerStopping)[0].in_flight == 1
            held.free.set()
        assert client.recv(4) == b"done"
        assert reports[0].completed == 1 and reports[0].clean


@threads
def test_idle_connection(dispatcher: Callable[[], Dispatcher], dial: Dial, recorder: Recorder) -> None:
    """An idle connection is ended at once: before its first request, and between two."""
    with Server(LOCAL, dispatcher(), echo, observers=[recorder]) as server:
        server.start()
        client = dial(server)
        client.sendall(b"first")
        assert client.recv(100) == b"first"
        report = server.drain(30)
        assert client.recv(100) == b""
    assert report.completed == 1
    assert report.clean


def test_the_present_exchange(dial: Dial, recorder: Recorder) -> None:
    """A connection in the middle of a request finishes that one, knows that it is draining, and begins no other."""
    draining: list[bool] = []
    pieces = threading.Semaphore(0)

    def lines(connection: Any) -> None:
        line = b""
        while piece := connection.recv(100):
            line += piece
            pieces.release()
            if line.endswith(b"\n"):
                draining.append(connection.draining)
                connection.send(line)
                line = b""

    with Server(LOCAL, ThreadPool(1), lines, observers=[recorder]) as server:
        server.start()
        client = dial(server)
        client.sendall(b"one\n")
        assert client.recv(100) == b"one\n"
        client.sendall(b"tw")
        assert pieces.acquire(timeout=10) and pieces.acquire(timeout=10)
        with in_thread(lambda: server.drain(30), "drain") as reports:
            recorder.wait(ServerStopping)
            client.sendall(b"o\n")
            assert client.recv(100) == b"two\n"
            assert client.recv(100) == b""
    assert draining == [False, True]
    assert reports[0].completed == 1 and reports[0].clean


@threads
def test_deadline(dispatcher: Callable[[], Dispatcher], dial: Dial, held: Any, recorder: Recorder) -> None:
    """A handler that never returns is abandoned at the deadline; the report says who, where, and in which line."""
    with Server(LOCAL, dispatcher(), held, observers=[recorder]) as server:
        server.start()
        client = dial(server)
        assert client.recv(4) == b"held"
        report = server.drain(0.05)
        (job,) = report.abandoned
        assert job.peer == client.getsockname()
        assert job.stage is Stage.HANDLER
        assert job.age > 0
        assert "wait_to_be_let_go" in job.stack
        assert not report.clean
        assert "1 abandoned" in str(report)
        assert recorder.outcome(1).status is Status.ABANDONED
        held.free.set()
    assert server.drain() is report
    recorder.check_books(report)


def test_default_deadline(dial: Dial, held: Any) -> None:
    """Without a timeout it is ``drain_timeout``, on leaving the block, too."""
    with Server(LOCAL, ThreadPool(1), held, drain_timeout=0.05) as server:
        server.start()
        assert dial(server).recv(4) == b"held"
    assert server.report is not None
    assert len(server.report.abandoned) == 1


@threads
def test_silent_peer(dispatcher: Callable[[], Dispatcher], dial: Dial, recorder: Recorder) -> None:
    """A handler that waits for its peer at the deadline is cut off: cancelled, not abandoned."""

    def wait(connection: Any) -> None:
        first = connection.recv(100)
        told.set()
        while more := connection.recv(100):
            first += more

    told = threading.Event()
    with Server(LOCAL, dispatcher(), wait, observers=[recorder]) as server:
        server.start()
        dial(server).sendall(b"half a request")
        assert told.wait(10)
        report = server.drain(0.05)
    assert (report.cancelled, report.abandoned) == (1, ())
    assert recorder.outcome(1).status is Status.CANCELLED


@threads
def test_close(dispatcher: Callable[[], Dispatcher], dial: Dial, recorder: Recorder) -> None:
    """Closing cuts off what runs, without waiting for it."""
    with Server(LOCAL, dispatcher(), do_as_told, observers=[recorder], drain_timeout=30) as server:
        server.start()
        client = dial(server)
        client.sendall(b"wait")
        assert client.recv(100) == b"waiting"
        server.close()
        assert client.recv(100) == b""
        assert server.state is State.CLOSED
    assert server.report is not None and server.report.accepted == 1
    assert recorder.outcome(1).status in (Status.CANCELLED, Status.COMPLETED)


def test_moved_closer(dial: Dial, held: Any, recorder: Recorder) -> None:
    """A close during a drain ends it; both report the same."""
    with Server(LOCAL, ThreadPool(1), held, observers=[recorder]) as server:
        server.start()
        assert dial(server).recv(4) == b"held"
        with in_thread(lambda: server.drain(60), "drain, whose deadline was moved closer,") as reports:
            recorder.wait(ServerStopping)
            server.close()
        assert reports == [server.report]
        held.free.set()


def test_backlog(dial: Dial, held: Any, recorder: Recorder) -> None:
    """Whoever still waits in the backlog is not taken in any more."""
    with Server(LOCAL, ThreadPool(1), held, observers=[recorder]) as server:
        server.start()
        assert dial(server).recv(4) == b"held"
        waiting = dial(server)
        with in_thread(server.drain, "drain") as reports:
            recorder.wait(ServerStopping)
            held.free.set()
        with pytest.raises(ConnectionResetError):
            waiting.recv(1)
    assert reports[0].accepted == 1
    assert len(recorder.of(JobStarted)) == 1


def test_datagram(recorder: Recorder) -> None:
    """A datagram that is being served is still answered during a drain."""
    free = threading.Event()

    def answer(datagram: Any) -> None:
        free.wait(10)
        datagram.reply(b"answer")

    with (
        Server(UDP("127.0.0.1", 0), ThreadPool(1), answer, observers=[recorder]) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.start()
        client.settimeout(10)
        client.sendto(b"question", server.address)
        recorder.wait(JobStarted)
        with in_thread(server.drain, "drain") as reports:
            recorder.wait(ServerStopping)
            free.set()
        assert client.recv(100) == b"answer"
    assert reports[0].completed == 1
