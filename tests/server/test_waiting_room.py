"""The places in which those wait who were accepted, before anybody is turned away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tricorn import Admission, Kind, Reject, Server
from tricorn.events import JobFinished, JobRefused
from tricorn.handlers import Lines, message
from tricorn.ledger import Ledger
from tricorn.observers import Observers
from tricorn.overload import Gate, make_gate
from tricorn.strategies import Asyncio, Fork, Selector, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP
from tricorn.wakeup import wait_readable

LOCAL = TCP("127.0.0.1", 0)
PLACES = 2
BUSY = b"421 busy\r\n"
Dial = Callable[[Any], socket.socket]


def echo(connection: Any) -> None:
    while data := connection.recv(100):
        connection.send(data)


async def echo_later(connection: Any) -> None:
    async for data in connection:
        await connection.send(data)


@message(Lines())
def echo_line(line: bytes) -> bytes:
    return line


EVERY = {
    "ThreadPool": (lambda: ThreadPool(PLACES), echo),
    "Thread": (lambda: Thread(), echo),
    "Fork": (lambda: Fork(), echo),
    "Selector": (lambda: Selector(), echo_line),
    "Asyncio": (lambda: Asyncio(), echo_later),
}


def say_hello(client: socket.socket) -> bytes:
    client.sendall(b"hello\n")
    return client.recv(100)


@pytest.mark.parametrize(
    ("dispatcher", "handler"),
    EVERY.values(),
    ids=EVERY,
)
def test_some_may_wait(dispatcher: Any, handler: Any, dial: Dial, recorder: Recorder) -> None:
    """``max_waiting`` of those who come wait for a place, in their order, before anybody is turned away."""
    admission = Admission(PLACES, max_waiting=2, max_wait=60, when_full=Reject(BUSY))
    with Server(LOCAL, dispatcher(), handler, admission=admission, observers=[recorder], log=False) as server:
        server.start()
        inside = [dial(server) for _ in range(PLACES)]
        assert [say_hello(client) for client in inside] == [b"hello\n"] * PLACES
        waiting = [dial(server) for _ in range(2)]
        for client in waiting:
            client.sendall(b"late\n")
        assert dial(server).recv(100) == BUSY
        for leaves, comes in zip(inside, waiting, strict=True):
            leaves.close()
            assert comes.recv(100) == b"late\n"
        recorder.wait(JobRefused)
        assert server.refusals() == {"full": 1}
        for client in waiting:
            client.close()


@pytest.mark.parametrize(("dispatcher", "handler"), EVERY.values(), ids=EVERY)
def test_nobody_waits_for_ever(dispatcher: Any, handler: Any, dial: Dial, recorder: Recorder) -> None:
    """Who has waited for ``max_wait`` seconds is turned away."""
    admission = Admission(PLACES, max_waiting=1, max_wait=0.05, when_full=Reject(BUSY))
    with Server(LOCAL, dispatcher(), handler, admission=admission, observers=[recorder], log=False) as server:
        server.start()
        inside = [dial(server) for _ in range(PLACES)]
        assert [say_hello(client) for client in inside] == [b"hello\n"] * PLACES
        assert dial(server).recv(100) == BUSY
        recorder.wait(JobRefused)
        assert server.refusals() == {"waited too long for a place": 1}


def test_waiting_when_it_stops(held: Any, dial: Dial) -> None:
    """Who still waits when the server has stopped is told so."""
    admission = Admission(1, max_waiting=1, max_wait=60, when_full=Reject(BUSY))
    with Server(LOCAL, Thread(), held, admission=admission, log=False, drain_timeout=0) as server:
        server.start()
        inside, waiting = dial(server), dial(server)
        assert inside.recv(100) == b"held"
        assert dial(server).recv(100) == BUSY  # so the other one is in its place
        server.drain()
        assert waiting.recv(100) == BUSY
        assert server.refusals() == {"full": 1, "the server stopped before there was a place": 1}


class Door:
    """A listener with requests that are names; ``meanwhile`` happens after the first was accepted."""

    kind = Kind.STREAM

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.meanwhile: Callable[[], object] | None = None

    def accept(self) -> Any:
        if not self.names:
            raise BlockingIOError
        request = SimpleNamespace(kind=Kind.STREAM, name=self.names.pop(0), peer="", socket=socket.socket(), tls=None)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return request


def made_full(max_waiting: int) -> tuple[Any, Gate]:
    """Its one place is a job's."""
    admission = Admission(1, max_waiting=max_waiting, max_wait=60, when_full=Reject(BUSY))
    permits, gate = make_gate(admission, 1, Ledger(Observers()))
    assert permits.take()
    gate.occupy()
    return permits, gate


def test_two_threads_at_the_door() -> None:
    """Neither swap two of those who come nor let in one too many: accepting and keeping is one step."""
    permits, gate = made_full(max_waiting=1)
    door: Any = Door("first", "second")
    other = threading.Thread(target=gate.turn, args=([door],))
    # With nothing to hold it up the other thread is through long before that, and has kept the second.
    door.meanwhile = lambda: (other.start(), other.join(0.2))
    gate.turn([door])
    other.join()
    gate.vacate()
    permits.give()
    request: Any = gate.accept(door)[0]
    assert request.name == "first"
    with pytest.raises(BlockingIOError):
        gate.accept(door)
    request.socket.close()
    gate.close()


def test_a_thread_that_only_looks_takes_no_place() -> None:
    """It holds a permit while it looks for a request; nobody is turned away, or made to wait, for that."""
    permits, gate = made_full(max_waiting=0)
    gate.vacate()  # so the permit is of somebody who looks
    door: Any = Door("first")
    assert not gate.turn([door])
    assert door.names == ["first"]
    permits.give()
    gate.close()


def test_a_place_comes_free_and_nobody_has_asked() -> None:
    """Whoever pulls is woken for who waits, also where no permit was asked for in vain."""
    permits, gate = made_full(max_waiting=1)
    door: Any = Door("first")
    gate.turn([door])
    job: Any = SimpleNamespace(kind=Kind.STREAM)
    gate.vacate()
    permits.give()
    gate.left(job)
    assert wait_readable(gate.bell.fileno(), 0)
    gate.close()


def test_the_door_is_minded_while_an_end_is_told(dial: Dial) -> None:
    """A job has its place until whoever observes has been told of its end; meanwhile the policy goes on."""
    told, go_on = threading.Event(), threading.Event()

    def slowly(event: object) -> None:
        if isinstance(event, JobFinished):
            told.set()
            assert go_on.wait(10)

    admission = Admission(PLACES, when_full=Reject(BUSY))
    with Server(LOCAL, ThreadPool(8), echo, admission=admission, observers=[slowly], log=False) as server:
        server.start()
        try:
            inside = [dial(server) for _ in range(PLACES)]
            assert [say_hello(client) for client in inside] == [b"hello\n"] * PLACES
            inside[0].close()
            assert told.wait(10)
            assert dial(server).recv(100) == BUSY
        finally:
            go_on.set()
