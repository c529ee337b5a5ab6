"""Thread: a thread for each request in flight, bounded, and used again."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tricorn import Server
from tricorn.events import JobFinished, JobStarted
from tricorn.strategies import Thread
from tricorn.testing.recorder import Recorder
from tricorn.transports import Memory


class Visitors:
    """A handler that notes its threads, and can hold them."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.free = threading.Event()

    def __call__(self, connection: Any) -> None:
        self.threads.append(threading.current_thread())
        connection.send(b"here")
        self.free.wait(60)


@pytest.fixture
def visitors(nothing_left_behind: None) -> Any:
    """Let go at the end of the test."""
    handler = Visitors()
    yield handler
    handler.free.set()


def enter(memory: Memory) -> Any:
    client = memory.connect()
    client.settimeout(10)
    assert client.recv(4) == b"here"
    return client


def test_concurrency() -> None:
    """It tells the server its limit, 256 by default."""
    assert Thread().concurrency == 256
    assert Thread(limit=7).concurrency == 7


def test_used_again(visitors: Visitors) -> None:
    """A thread that is done serves the next request; the limit makes sure of it here."""
    memory = Memory()
    visitors.free.set()
    with Server(memory, Thread(limit=1), visitors) as server:
        server.start()
        for _ in range(5):
            enter(memory).close()
    assert len(set(visitors.threads)) == 1
    assert len(visitors.threads) == 5


def test_limit(visitors: Visitors, recorder: Recorder) -> None:
    """No more threads than the limit, however many clients there are; the others wait, and are served later."""
    memory = Memory()
    with Server(memory, Thread(limit=3), visitors, observers=[recorder]) as server:
        server.start()
        clients = [memory.connect() for _ in range(10)]
        recorder.wait(JobStarted, 3)
        visitors.free.set()
        for client in clients:
            client.settimeout(10)
            assert client.recv(4) == b"here"
        recorder.wait(JobFinished, 10)
    assert recorder.most_at_once() == 3
    assert len(set(visitors.threads)) <= 3


def test_no_more_than_needed(visitors: Visitors) -> None:
    """There are only as many threads as there were requests at once."""
    memory = Memory()
    with Server(memory, Thread(limit=100), visitors) as server:
        server.start()
        before = threading.active_count()
        enter(memory)
        enter(memory)
        assert threading.active_count() == before + 2
        visitors.free.set()


def test_idle_threads_end(visitors: Visitors, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that has had no work for a while ends, and another one is started for the next request."""
    monkeypatch.setattr("tricorn.strategies.thread.IDLE_S", 0.01)
    memory = Memory()
    visitors.free.set()
    with Server(memory, Thread(limit=1), visitors) as server:
        server.start()
        for _ in range(3):
            enter(memory)
            visitors.threads[-1].join(10)
            assert not visitors.threads[-1].is_alive()
    assert len(set(visitors.threads)) == 3


def test_busy_at_the_end(visitors: Visitors) -> None:
    """A thread that comes out of its handler after the end is not kept for the next request."""
    memory = Memory()
    with Server(memory, Thread(limit=2), visitors, log=False) as server:
        server.start()
        enter(memory)
        assert len(server.drain(0).abandoned) == 1
    (thread,) = visitors.threads
    assert thread.is_alive()
    visitors.free.set()
    thread.join(5)  # less than the ten seconds after which an idle one ends anyhow
    assert not thread.is_alive()


def test_used_by_the_next_server(visitors: Visitors) -> None:
    """The same dispatcher serves in another server, with as many threads, though one of the first is stuck."""
    dispatcher = Thread(limit=1)
    with Server(memory := Memory(), dispatcher, visitors, log=False) as server:
        server.start()
        enter(memory)
        assert len(server.drain(0).abandoned) == 1
    with Server(memory := Memory(), dispatcher, visitors, log=False) as server:
        server.start()
        enter(memory)
        visitors.free.set()
        assert server.drain().completed == 1
