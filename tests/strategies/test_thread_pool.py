"""ThreadPool: a fixed set of threads, each of which accepts for itself."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tricorn import Server
from tricorn.strategies import ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import Memory


def test_concurrency() -> None:
    """It tells the server how many it can serve at once: 16 by default."""
    assert ThreadPool().concurrency == 16
    assert ThreadPool(workers=7).concurrency == 7


def test_threads() -> None:
    """Each of its threads serves."""
    names: set[str] = set()
    together = threading.Barrier(6)

    def meet(connection: Any) -> None:
        names.add(threading.current_thread().name)
        together.wait(10)

    with Server(memory := Memory(), ThreadPool(workers=5), meet) as server:
        server.start()
        clients = [memory.connect() for _ in range(5)]
        together.wait(10)
        assert names == {f"tricorn-worker-{n}" for n in range(5)}
        for client in clients:
            client.close()


def test_fewer_threads_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine gives no more threads, it serves with those that it got."""
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name == "tricorn-worker-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    names: list[str] = []
    together = threading.Barrier(3)

    def meet(connection: Any) -> None:
        names.append(threading.current_thread().name)
        together.wait(10)

    with Server(memory := Memory(), ThreadPool(workers=5), meet) as server:
        server.start()
        clients = [memory.connect() for _ in range(4)]
        together.wait(10)
        together.wait(10)
        for client in clients:
            client.close()
    assert sorted(names) == ["tricorn-worker-0", "tricorn-worker-0", "tricorn-worker-1", "tricorn-worker-1"]


@pytest.mark.filterwarnings("ignore:Exception in thread")
def test_no_thread_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it gives none, serving ends with the error."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with (
        Server(Memory(), ThreadPool(workers=2), print, log=False) as server,
        pytest.raises(RuntimeError, match="can't start new thread"),
    ):
        server.serve_forever()


def test_the_excess_waits(recorder: Recorder) -> None:
    """No more requests at once than it has threads."""
    barrier = threading.Barrier(2)

    def meet(connection: Any) -> None:
        barrier.wait(10)
        connection.send(b"x")

    with Server(memory := Memory(), ThreadPool(workers=2), meet, observers=[recorder]) as server:
        server.start()
        for client in [memory.connect() for _ in range(8)]:
            client.settimeout(10)
            assert client.recv(1) == b"x"
    assert recorder.most_at_once() == 2
