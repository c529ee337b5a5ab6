"""ProcessPool: worker processes that share the listeners, and are kept at their number."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import Server, StateError, Status
from tricorn.contracts import Dispatcher
from tricorn.errors import WorkerLost
from tricorn.events import JobFinished, JobStarted, ServerStopping, WorkerEnded, WorkerStarted
from tricorn.strategies import ProcessPool, Sync, Thread, ThreadPool
from tricorn.testing.bounds import in_thread
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP

Dial = Callable[..., socket.socket]
LOCAL = TCP("127.0.0.1", 0)


def obey(connection: Any) -> None:
    match connection.recv(100).split():
        case [b"pid"]:
            connection.send(b"%d" % os.getpid())
        case [b"hold"]:
            connection.send(b"%d" % os.getpid())
            connection.recv(1)
        case [b"signal", number]:
            os.kill(os.getpid(), int(number))
        case [b"exit", status]:
            os._exit(int(status))
        case [b"threads"]:
            connection.send(b"%d" % threading.active_count())


def ask(dial: Dial, server: Server, words: bytes) -> bytes:
    return dial(server.address, words).recv(100)


def test_workers() -> None:
    """There is one for each processor that this process may use, unless it is told otherwise."""
    assert ProcessPool().workers == len(os.sched_getaffinity(0))
    assert ProcessPool(workers=3).workers == 3
    assert isinstance(ProcessPool().inner, Sync)


def test_number(dial: Dial, recorder: Recorder) -> None:
    """As many processes serve as were asked for, and none of them is the program's; all are told of."""
    with Server(LOCAL, ProcessPool(3), obey, observers=[recorder]) as server:
        server.start()
        clients = [dial(server.address, b"hold") for _ in range(3)]
        pids = {int(client.recv(100)) for client in clients}
        started = recorder.wait(WorkerStarted, 3)
        for client in clients:
            client.close()
        server.drain()
    assert pids == {each.pid for each in started}
    assert os.getpid() not in pids
    ended = recorder.of(WorkerEnded)
    assert {each.pid for each in ended} == pids
    assert all(each.expected and not each.lost and each.reason == "exited with status 0" for each in ended)


@pytest.mark.parametrize("inner", [Sync(), Thread(2), ThreadPool(2)], ids=lambda each: type(each).__name__)
def test_inner(inner: Dispatcher, dial: Dial) -> None:
    """Each worker runs the inner dispatcher, as many requests at once as that can."""
    capacity = 2 * (inner.concurrency or 1)
    with Server(LOCAL, ProcessPool(2, inner=inner), obey) as server:
        server.start()
        clients = [dial(server.address, b"hold") for _ in range(capacity)]
        pids = [int(client.recv(100)) for client in clients]
        assert {pids.count(pid) for pid in pids} == {capacity // 2}
        assert {job.peer for job in server.jobs()} == {client.getsockname() for client in clients}
        for client in clients:
            client.close()
        report = server.drain()
    assert (report.accepted, report.completed) == (capacity, capacity)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (b"signal %d" % signal.SIGKILL, "was killed by SIGKILL"),
        (b"signal %d" % signal.SIGUSR2, "was killed by SIGUSR2"),
        (b"exit 3", "exited with status 3"),
    ],
    ids=["SIGKILL", "SIGUSR2", "exit"],
)
def test_death(words: bytes, reason: str, dial: Dial, recorder: Recorder) -> None:
    """A worker that dies is replaced, and its request is lost, by the signal's name; all of that is told."""
    with Server(LOCAL, ProcessPool(1), obey, observers=[recorder], log=False) as server:
        server.start()
        first = int(ask(dial, server, b"pid"))
        assert ask(dial, server, words) == b""
        second = int(ask(dial, server, b"pid"))
        report = server.drain()
    outcome = recorder.outcome(2)
    assert (outcome.status, outcome.detail) == (Status.LOST, reason)
    assert WorkerLost.__name__ in str(outcome.error) and reason in str(outcome.error)
    ended = recorder.of(WorkerEnded)[0]
    assert (ended.pid, ended.reason, ended.expected, ended.lost) == (first, reason, False, (outcome.id,))
    assert [(each.pid, each.replaces) for each in recorder.of(WorkerStarted)] == [(first, None), (second, first)]
    assert (report.accepted, report.completed, report.lost) == (3, 2, 1)
    recorder.check_books(report)


def test_death_among_others(dial: Dial, recorder: Recorder) -> None:
    """All requests of a worker that dies are lost, and none of another's."""
    with Server(LOCAL, ProcessPool(2, inner=ThreadPool(2)), obey, observers=[recorder], log=False) as server:
        server.start()
        clients = [dial(server.address, b"hold") for _ in range(3)]
        pids = [int(client.recv(100)) for client in clients]
        doomed = max(pids, key=pids.count)
        os.kill(doomed, signal.SIGKILL)
        recorder.wait(JobFinished, pids.count(doomed))
        for client, pid in zip(clients, pids, strict=True):
            if pid == doomed:
                assert client.recv(1) == b""
            else:
                client.sendall(b"x")
        report = server.drain()
    assert (report.lost, report.completed) == (pids.count(doomed), 3 - pids.count(doomed))
    assert set(recorder.wait(WorkerEnded)[0].lost) == {each.outcome.id for each in recorder.of(JobFinished)[:2]}


def test_killed_while_idle(dial: Dial, recorder: Recorder) -> None:
    """A worker that dies without a request costs nobody anything."""
    with Server(LOCAL, ProcessPool(1), obey, observers=[recorder], log=False) as server:
        server.start()
        pid = int(ask(dial, server, b"pid"))
        recorder.wait(JobFinished)
        os.kill(pid, signal.SIGKILL)
        assert recorder.wait(WorkerEnded)[0].lost == ()
        assert int(ask(dial, server, b"pid")) != pid
        assert server.drain().completed == 2


def test_drain(dial: Dial, recorder: Recorder) -> None:
    """Running requests of every worker may finish; the report counts them all."""
    with Server(LOCAL, ProcessPool(2), obey, observers=[recorder]) as server:
        server.start()
        clients = [dial(server.address, b"hold") for _ in range(2)]
        for client in clients:
            client.recv(100)
        with in_thread(lambda: server.drain(30), "drain") as reports:
            recorder.wait(ServerStopping)
            for client in clients:
                client.sendall(b"x")
        assert (reports[0].accepted, reports[0].completed) == (2, 2)
        recorder.check_books(reports[0])


def test_deadline(dial: Dial, recorder: Recorder) -> None:
    """At the deadline the workers that are left are killed; their requests are cancelled."""
    with Server(LOCAL, ProcessPool(2), obey, observers=[recorder], log=False) as server:
        server.start()
        clients = [dial(server.address, b"hold") for _ in range(2)]
        pidfds = [os.pidfd_open(int(client.recv(100))) for client in clients]
        report = server.drain(0)
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], 10)[0]
            os.close(pidfd)
    assert report.accepted == 2
    assert report.cancelled + report.completed == 2  # idle ones are ended, and may be quicker than the kill
    recorder.check_books(report)


def test_threads_of_the_program(dial: Dial) -> None:
    """In a program with a thread it is refused, with what would work; nothing is left bound."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="somebody-else")
    thread.start()
    try:
        server = Server(LOCAL, ProcessPool(2), obey)
        with pytest.raises(StateError, match="cannot fork in a program with 2 threads .*somebody-else.*ThreadPool"):
            server.start()
        with pytest.raises(ConnectionRefusedError):
            dial(server.address)
    finally:
        end.set()
        thread.join()


def test_thread_that_was_joined(dial: Dial) -> None:
    """A thread that was joined a moment ago is none any more, though the kernel may still show it."""
    for _ in range(20):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        with Server(LOCAL, ProcessPool(1), obey) as server:
            server.start()


def test_output_of_a_worker(dial: Dial, capfd: pytest.CaptureFixture[str]) -> None:
    """What a worker has printed comes out, once, when it ends."""

    def shout(connection: Any) -> None:
        print("from a worker", end="")
        connection.send(b"x")

    with Server(LOCAL, ProcessPool(1), shout) as server:
        server.start()
        assert ask(dial, server, b"") == b"x"
    assert capfd.readouterr().out == "from a worker"


def test_many(dial: Dial, recorder: Recorder) -> None:
    """Every request of many is counted once, whichever worker had it."""
    with Server(LOCAL, ProcessPool(2, inner=ThreadPool(2)), obey, observers=[recorder]) as server:
        server.start()
        pids = {ask(dial, server, b"pid") for _ in range(100)}
        report = server.drain()
    assert b"" not in pids
    assert (report.accepted, report.completed) == (100, 100)
    assert len({each.id for each in recorder.of(JobStarted)}) == 100
    recorder.check_books(report)
