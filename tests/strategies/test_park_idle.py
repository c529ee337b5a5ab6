"""ThreadPool(park_idle=True): a thread only for connections that have something to read."""

from __future__ import annotations

import errno
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tricorn import Deadlines, Server
from tricorn.errors import ConfigurationError, IncompatibleParts
from tricorn.events import JobFinished, JobStarted, ServerStopping, Status
from tricorn.handlers import Lines, message
from tricorn.poller import _SelectorPoller, make_poller
from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
from tricorn.testing.bounds import in_thread
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, UDP, Memory

Dial = Callable[..., socket.socket]

shout = message(Lines())(bytes.upper)


def count(connection: Any) -> None:
    """Answer once, with how often it was called for this connection; then park."""
    data = connection.recv()
    connection.memo = (connection.memo or 0) + 1
    if data:
        connection.send(data + b"%d" % connection.memo)
        connection.park()


@pytest.fixture
def free(nothing_left_behind: None) -> Iterator[threading.Event]:
    """Set at the end, whatever happens."""
    event = threading.Event()
    yield event
    event.set()


def test_options() -> None:
    """It is a flag, and says how many connections it holds: as many as the server takes."""
    with pytest.raises(ConfigurationError, match="park_idle must be True or False"):
        ThreadPool(park_idle=1)  # type: ignore[arg-type]
    assert ThreadPool(park_idle=True).concurrency is None
    assert ThreadPool(park_idle=True).needs_descriptors
    assert not ThreadPool().needs_descriptors


def test_no_memory() -> None:
    """It waits for descriptors, and the memory transport has none."""
    with pytest.raises(IncompatibleParts, match="ThreadPool waits for descriptors"):
        Server(Memory(), ThreadPool(park_idle=True), count)


def test_silent_connections_hold_no_thread(dial: Dial) -> None:
    """With one thread and many silent connections, each that speaks is served."""
    with Server(TCP(), ThreadPool(1, park_idle=True), count) as server:
        server.start()
        clients = [dial(server.address) for _ in range(100)]
        for turn in (b"1", b"2", b"3"):
            for client in reversed(clients):
                client.sendall(b"hi")
                assert client.recv(10) == b"hi" + turn
        assert len(server.jobs()) == 100
        assert server.drain().completed == 100


@pytest.mark.parametrize(
    "make",
    [Sync, Thread, lambda: ThreadPool(2), Fork, lambda: ProcessPool(2), lambda: ThreadPool(2, park_idle=True)],
    ids=["sync", "thread", "thread-pool", "fork", "process-pool", "park_idle"],
)
def test_the_same_handler_under_all(make: Callable[[], Any], dial: Dial) -> None:
    """A handler that parks its connection is called again under every dispatcher, and its memo is kept."""
    with Server(TCP(), make(), count) as server:
        server.start()
        client = dial(server.address)
        for turn in (b"1", b"2", b"3"):
            client.sendall(b"hi")
            assert client.recv(10) == b"hi" + turn
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b""
        assert server.drain().completed == 1


def test_one_job_for_each_connection(dial: Dial) -> None:
    """However often it is parked."""
    recorder = Recorder()
    with Server(TCP(), ThreadPool(2, park_idle=True), shout, observers=[recorder]) as server:
        server.start()
        clients = [dial(server.address) for _ in range(5)]
        for client in clients * 5:
            client.sendall(b"hi\nho\n")
            with client.makefile("rb") as file:
                assert file.read(6) == b"HI\nHO\n"
        clients[0].close()
        recorder.wait(JobFinished)
        assert len(server.jobs()) == 4
        report = server.drain()
    recorder.check_books(report)
    assert (report.accepted, report.completed) == (5, 5)


def test_a_message_in_pieces_holds_no_thread(dial: Dial) -> None:
    """What has come of a message is kept while the connection is parked."""
    with Server(TCP(), ThreadPool(1, park_idle=True), shout) as server:
        server.start()
        slow, quick = dial(server.address), dial(server.address)
        for n in range(5):
            slow.sendall(b"%d" % n)
            quick.sendall(b"hi\n")
            assert quick.recv(10) == b"HI\n"
        slow.sendall(b"\n")
        assert slow.recv(10) == b"01234\n"


def test_a_busy_pool_makes_others_wait(free: threading.Event, dial: Dial) -> None:
    """While all threads are busy, what arrives waits, and is served then; nothing is lost."""
    entered = threading.Semaphore(0)

    def hold(connection: Any) -> None:
        data = connection.recv()
        if data == b"hold":
            entered.release()
            free.wait(20)
        if data:
            connection.send(data)
            connection.park()

    with Server(TCP(), ThreadPool(2, park_idle=True), hold) as server:
        server.start()
        held = [dial(server.address, b"hold") for _ in range(2)]
        for _ in held:
            assert entered.acquire(timeout=10)
        waiting = [dial(server.address, b"%d" % n) for n in range(20)]
        free.set()
        for n, client in enumerate(waiting):
            assert client.recv(10) == b"%d" % n
        for client in held:
            assert client.recv(10) == b"hold"


def test_idle_timeout(dial: Dial) -> None:
    """A connection that is parked for so long is ended as timed out; one that speaks is not."""
    recorder = Recorder()
    limits, dispatcher = Deadlines(first_byte=0.3, idle=0.3), ThreadPool(2, park_idle=True)
    with Server(TCP(), dispatcher, shout, log=False, observers=[recorder], deadlines=limits) as server:
        server.start()
        silent, speaking = dial(server.address), dial(server.address)
        name = silent.getsockname()
        while not recorder.of(JobFinished):
            speaking.sendall(b"hi\n")
            assert speaking.recv(10) == b"HI\n"
        (event,) = recorder.of(JobFinished)
    assert (event.outcome.peer, event.outcome.status) == (name, Status.TIMED_OUT)
    assert "the peer sent nothing within 0.3 s (Deadlines.first_byte)" in str(event.outcome.error)


def test_a_peer_that_leaves_while_it_is_parked(dial: Dial) -> None:
    """Its handler is called once more, and sees the end; a reset is the peer's doing."""
    recorder = Recorder()
    with Server(TCP(), ThreadPool(2, park_idle=True), count, log=False, observers=[recorder]) as server:
        server.start()
        closing, resetting = dial(server.address, b"a"), dial(server.address, b"b")
        assert (closing.recv(10), resetting.recv(10)) == (b"a1", b"b1")
        closing.close()
        assert recorder.outcome(1).status is Status.COMPLETED
        resetting.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        resetting.close()
        assert recorder.outcome(2).status is Status.DISCONNECTED


def test_a_handler_that_fails(dial: Dial) -> None:
    """It costs its own connection, whether it had parked it before or not."""

    def fail(connection: Any) -> None:
        connection.park()
        if connection.recv() == b"x":
            raise ValueError("as it was told")
        connection.send(b"ok")

    recorder = Recorder()
    with Server(TCP(), ThreadPool(1, park_idle=True), fail, log=False, observers=[recorder]) as server:
        server.start()
        client, other = dial(server.address, b"a"), dial(server.address, b"a")
        assert (client.recv(10), other.recv(10)) == (b"ok", b"ok")
        client.sendall(b"x")
        assert client.recv(10) == b""
        assert recorder.outcome(1).status is Status.FAILED
        other.sendall(b"a")
        assert other.recv(10) == b"ok"
        client.close()


@pytest.mark.parametrize("make", [Thread, lambda: ThreadPool(2, park_idle=True)], ids=["thread", "park_idle"])
def test_parking_at_the_end(make: Callable[[], Any], dial: Dial) -> None:
    """A handler that parks whatever it received is not called for ever when the peer has ended its side."""
    calls = 0

    def always(connection: Any) -> None:
        nonlocal calls
        calls += 1
        connection.recv()
        connection.park()

    recorder = Recorder()
    with Server(TCP(), make(), always, observers=[recorder]) as server:
        server.start()
        client = dial(server.address, b"a")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b""
        assert recorder.outcome(1).status is Status.COMPLETED
    assert 2 <= calls <= 4


def test_parking_a_closed_connection(dial: Dial) -> None:
    """A handler that parks what it has closed is called with it once more, as everywhere."""
    recorder = Recorder()

    def close(connection: Any) -> None:
        connection.recv()
        connection.close()
        connection.park()

    with Server(TCP(), ThreadPool(1, park_idle=True), close, log=False, observers=[recorder]) as server:
        server.start()
        assert dial(server.address, b"a").recv(10) == b""
        assert recorder.outcome(1).status in (Status.FAILED, Status.DISCONNECTED)


def test_datagrams() -> None:
    """They go to the threads as they come."""
    with (
        Server(UDP(), ThreadPool(2, park_idle=True), shout) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.start()
        client.settimeout(10)
        for n in range(10):
            client.sendto(b"a%d\n" % n, server.address)
            assert client.recv(10) == b"A%d\n" % n


# -- endings


def test_drain(dial: Dial) -> None:
    """Parked connections are ended at once."""
    with Server(TCP(), ThreadPool(2, park_idle=True), shout) as server:
        server.start()
        clients = [dial(server.address, b"hi\n") for _ in range(10)]
        for client in clients:
            assert client.recv(10) == b"HI\n"
        report = server.drain()
        assert (report.completed, report.clean) == (10, True)
        assert all(client.recv(10) == b"" for client in clients)


def test_drain_in_the_middle_of_a_message(dial: Dial) -> None:
    """A connection that is parked with half a message may finish it."""
    recorder = Recorder()
    with Server(TCP(), ThreadPool(2, park_idle=True), shout, observers=[recorder]) as server:
        server.start()
        client = dial(server.address, b"a\nhal")
        assert client.recv(10) == b"A\n"
        with in_thread(lambda: server.drain(10), "a drain") as reports:
            recorder.wait(ServerStopping)
            for _ in range(12):
                client.sendall(b"l")
                threading.Event().wait(0.1)
            client.sendall(b"\n")
            assert client.recv(20) == b"HAL" + 12 * b"L" + b"\n"
            assert client.recv(10) == b""
        assert reports[0].completed == 1


def test_drain_waits_for_handlers(free: threading.Event, dial: Dial) -> None:
    """A running handler finishes; what it then parks is ended."""
    entered = threading.Event()

    def hold(connection: Any) -> None:
        data = connection.recv()
        entered.set()
        free.wait(20)
        if data:
            connection.send(data)
            connection.park()

    recorder = Recorder()
    with Server(TCP(), ThreadPool(2, park_idle=True), hold, observers=[recorder]) as server:
        server.start()
        client, idle = dial(server.address, b"a"), dial(server.address)
        assert entered.wait(10)
        with in_thread(lambda: server.drain(10), "a drain") as reports:
            recorder.wait(ServerStopping)
            free.set()
            assert (client.recv(10), client.recv(10), idle.recv(10)) == (b"a", b"", b"")
        assert (reports[0].completed, reports[0].clean) == (2, True)


def test_a_handler_that_outlives_the_drain(free: threading.Event, dial: Dial) -> None:
    """It is abandoned, and parked ones are cut off; when it returns, and parks its connection, that is closed."""
    entered = threading.Event()

    def hold(connection: Any) -> None:
        connection.recv()
        entered.set()
        free.wait(20)
        connection.park()

    recorder = Recorder()
    with Server(TCP(), ThreadPool(1, park_idle=True), hold, log=False, observers=[recorder]) as server:
        server.start()
        client, idle = dial(server.address, b"a"), dial(server.address)
        assert entered.wait(10)
        recorder.wait(JobStarted, 2)
        report = server.drain(0.1)
        assert [info.peer for info in report.abandoned if info.peer == client.getsockname()]
        assert report.accepted == 2
        assert idle.recv(10) == b""
    recorder.check_books(report)
    free.set()  # what it leaves open would be found by who looks after the tests


class _Poor:
    """A poller that has no memory left when the first connection is put back."""

    def __init__(self) -> None:
        self._poller = make_poller()
        self.tries = 0

    def modify(self, fd: int, events: int) -> None:
        self.tries += 1
        if self.tries == 1:
            raise OSError(errno.ENOMEM, "no memory")
        self._poller.modify(fd, events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)


@pytest.mark.skipif(not hasattr(select, "EPOLLONESHOT"), reason="armed again on Linux only")
def test_no_memory_to_wait_with(dial: Dial, monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> None:
    """It costs the connection that was to wait, which ends, and the server goes on."""
    monkeypatch.setattr("tricorn.parking.make_poller", _Poor)
    with Server(TCP(), ThreadPool(1, park_idle=True), count, observers=[recorder], log=False) as server:
        server.start()
        first, second = dial(server.address, b"a"), dial(server.address)
        assert first.recv(9) == b"a1"
        assert first.recv(9) == b""
        for turn in (b"b1", b"b2"):
            second.sendall(b"b")
            assert second.recv(9) == turn
        report = server.drain()
    assert (report.accepted, report.lost, report.abandoned) == (2, 0, ())
    assert recorder.wait(JobFinished)[0].outcome.error.errno == errno.ENOMEM


def test_without_epoll(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only one thread may say what is waited for, connections come back to it first."""
    monkeypatch.setattr("tricorn.parking.make_poller", _SelectorPoller)
    monkeypatch.delattr(select, "EPOLLONESHOT", raising=False)
    with Server(TCP(), ThreadPool(1, park_idle=True), count) as server:
        server.start()
        clients = [dial(server.address) for _ in range(3)]
        for turn in (b"a1", b"a2", b"a3"):
            for client in clients:
                client.sendall(b"a")
                assert client.recv(9) == turn
        clients.pop().close()
        report = server.drain()
    assert (report.accepted, report.lost, report.abandoned) == (3, 0, ())
