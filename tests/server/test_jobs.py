"""`Server.jobs`: what is in flight."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import Server, Stage
from tricorn.contracts import Dispatcher
from tricorn.events import JobFinished
from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP

Dial = Callable[[Any], socket.socket]
LOCAL = TCP("127.0.0.1", 0)


def conversation(connection: Any) -> None:
    connection.send(b"here")
    wait_for_the_end(connection)


def wait_for_the_end(connection: Any) -> None:
    while connection.recv(100):
        pass


@pytest.mark.parametrize(
    ("dispatcher", "where"),
    [
        (Sync, "thread tricorn-serve"),
        (Thread, "thread tricorn-thread"),
        (ThreadPool, "thread tricorn-worker-"),
        (Fork, "process "),
        (lambda: ProcessPool(1), "process "),
    ],
    ids=["Sync", "Thread", "ThreadPool", "Fork", "ProcessPool"],
)
def test_one(dispatcher: Callable[[], Dispatcher], where: str, dial: Dial, recorder: Recorder) -> None:
    """A running request is listed with peer, age, stage and where it runs, until it ends."""
    with Server(LOCAL, dispatcher(), conversation, observers=[recorder]) as server:
        server.start()
        assert server.jobs() == ()
        client = dial(server)
        assert client.recv(4) == b"here"
        (job,) = server.jobs()
        assert job.peer == client.getsockname()
        assert job.stage is Stage.HANDLER
        assert 0 <= job.age < 60
        assert job.where.startswith(where)
        assert job.stack == ""
        client.close()
        assert recorder.outcome(1).id == job.id
        assert server.jobs() == ()


@pytest.mark.parametrize("dispatcher", [Sync, Thread, ThreadPool])
def test_stacks(dispatcher: Callable[[], Dispatcher], dial: Dial) -> None:
    """``stacks=True`` shows the line in which each thread is."""
    with Server(LOCAL, dispatcher(), conversation) as server:
        server.start()
        assert dial(server).recv(4) == b"here"
        (job,) = server.jobs(stacks=True)
        assert "in conversation" in job.stack


def test_several(dial: Dial, recorder: Recorder) -> None:
    """They are listed oldest first, each with its own number."""
    with Server(LOCAL, ThreadPool(3), conversation, observers=[recorder]) as server:
        server.start()
        clients = []
        for _ in range(3):
            clients.append(dial(server))
            assert clients[-1].recv(4) == b"here"
        jobs = server.jobs()
        assert [job.peer for job in jobs] == [client.getsockname() for client in clients]
        assert len({job.id for job in jobs}) == 3
        assert [job.age for job in jobs] == sorted((job.age for job in jobs), reverse=True)
        clients[1].close()
        recorder.wait(JobFinished)
        assert [job.peer for job in server.jobs()] == [clients[0].getsockname(), clients[2].getsockname()]


def test_when_there_are_none(dial: Dial) -> None:
    """Before it is bound and after the end there are none."""
    server = Server(LOCAL, ThreadPool(1), conversation)
    assert server.jobs() == ()
    with server:
        server.start()
        dial(server).recv(4)
    assert server.jobs() == ()


@pytest.mark.parametrize("dispatcher", [Fork, lambda: ProcessPool(1)], ids=["Fork", "ProcessPool"])
def test_after_the_end_of_another_process(dispatcher: Callable[[], Dispatcher]) -> None:
    """Nor where the server ran in another process."""
    with Server(LOCAL, dispatcher(), conversation) as server:
        server.start()
        server.drain()
        assert server.jobs() == ()
