"""Observers: what they are told, where, and at what price."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import Server, Stage, Status
from tricorn.contracts import Dispatcher
from tricorn.events import JobFinished, JobRefused, JobStarted, ServerClosed, ServerStarted, ServerStopping
from tricorn.strategies import Fork, ProcessPool, Sync, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP

Dial = Callable[[Any], socket.socket]
LOCAL = TCP("127.0.0.1", 0)


def answer(connection: Any) -> None:
    connection.send(b"answer")


def fail(connection: Any) -> None:
    raise ValueError("no such page")


def serve_one(server: Server, dial: Dial) -> socket.socket:
    """A server's whole life, with one request; the client."""
    with server:
        server.start()
        client = dial(server)
        client.recv(100)
    return client


@pytest.mark.parametrize("dispatcher", [Sync, ThreadPool, Fork])
def test_whole_life(dispatcher: Callable[[], Dispatcher], dial: Dial, recorder: Recorder) -> None:
    """They are told of the start, of each job's start and end, of the stop and the end, in this order."""
    server = Server(LOCAL, dispatcher(), answer, observers=[recorder])
    client = serve_one(server, dial)
    started, job, finished, stopping, closed = in_order(recorder)
    assert started.addresses == server.addresses
    assert job.peer == finished.outcome.peer == client.getsockname()
    assert job.local == finished.outcome.local == server.address
    assert job.id == finished.outcome.id
    assert (finished.outcome.status, finished.outcome.stage) == (Status.COMPLETED, Stage.HANDLER)
    assert finished.outcome.age > 0
    assert stopping.in_flight in (0, 1)
    assert closed.report == server.report


def in_order(recorder: Recorder) -> list[Any]:
    """One of each of the five; a job may end while the server is stopping already."""
    kinds = [ServerStarted, JobStarted, JobFinished, ServerStopping, ServerClosed]
    assert {type(each) for each in recorder.told} == set(kinds)
    assert [type(recorder.told[n]) for n in (0, 1, -1)] == [ServerStarted, JobStarted, ServerClosed]
    return [recorder.of(kind)[0] for kind in kinds]


@pytest.mark.parametrize("dispatcher", [Sync, ThreadPool, Fork, ProcessPool])
def test_failure(dispatcher: Callable[[], Dispatcher], dial: Dial, recorder: Recorder) -> None:
    """A failed job's outcome has the error, with its traceback, from another process, too."""
    serve_one(Server(LOCAL, dispatcher(), fail, observers=[recorder], log=False), dial)
    outcome = recorder.outcome(1)
    assert outcome.status is Status.FAILED
    assert "no such page" in str(outcome.error)


@pytest.mark.parametrize("dispatcher", [Sync, ThreadPool, Fork, ProcessPool])
def test_same_process(dispatcher: Callable[[], Dispatcher], dial: Dial) -> None:
    """They are called in the program's own process, wherever the jobs run."""
    pids: set[int] = set()
    serve_one(Server(LOCAL, dispatcher(), answer, observers=[lambda event: pids.add(os.getpid())]), dial)
    assert pids == {os.getpid()}


def test_nobody(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody observes, no record of a job is built."""

    def forbidden(*arguments: object) -> None:
        raise AssertionError("a record was built")

    for name in ("JobStarted", "JobFinished", "Outcome"):
        monkeypatch.setattr(f"tricorn.job.{name}", forbidden)
    server = Server(LOCAL, ThreadPool(1), answer, log=False)
    serve_one(server, dial)
    assert server.report is not None and server.report.completed == 1


def test_quiet_log(dial: Dial, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nor for the log alone, as long as requests complete and nobody reads debug records."""
    monkeypatch.setattr("tricorn.job.JobStarted", None)
    monkeypatch.setattr("tricorn.job.JobFinished", None)
    caplog.set_level(logging.INFO, "tricorn")
    server = Server(LOCAL, ThreadPool(1), answer)
    serve_one(server, dial)
    assert server.report is not None and server.report.completed == 1


@pytest.mark.parametrize("dispatcher", [Sync, ThreadPool, Fork, ProcessPool])
def test_quiet(dispatcher: Callable[[], Dispatcher], dial: Dial) -> None:
    """A quiet one hears of failures only, and of the server."""

    class Quiet(Recorder):
        quiet = True

    class Noisy(Recorder):
        quiet = False

    quiet = Quiet()
    serve_one(Server(LOCAL, dispatcher(), answer, observers=[quiet]), dial)
    assert quiet.of(JobFinished) == quiet.of(JobStarted) == []
    quiet, noisy = Quiet(), Noisy()
    serve_one(Server(LOCAL, dispatcher(), fail, observers=[quiet, noisy], log=False), dial)
    assert len(quiet.of(JobFinished)) == len(noisy.of(JobFinished)) == 1


def test_wanted_events(dial: Dial) -> None:
    """One that says which events it wants is told no others."""

    class Choosy(Recorder):
        events = frozenset({JobFinished})

    choosy = Choosy()
    serve_one(Server(LOCAL, ThreadPool(1), answer, observers=[choosy]), dial)
    assert [type(each) for each in choosy.told] == [JobFinished]


def test_raising(dial: Dial, recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """One that raises costs nobody anything: it is logged once, and the others are told."""

    def raising(event: object) -> None:
        raise ZeroDivisionError("in an observer")

    server = Server(LOCAL, ThreadPool(1), answer, observers=[raising, recorder])
    serve_one(server, dial)
    assert server.report is not None and server.report.completed == 1
    recorder.check_books(server.report)
    (record,) = [each for each in caplog.records if "raised on" in each.getMessage()]
    assert "raising" in record.getMessage()
    assert record.exc_info is not None


def test_log(dial: Dial, caplog: pytest.LogCaptureFixture) -> None:
    """Without a word a failure is one record of the logger ``tricorn``, with peer, stage and traceback."""
    client = serve_one(Server(LOCAL, ThreadPool(1), fail), dial)
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.name == "tricorn"
    assert f"127.0.0.1:{client.getsockname()[1]}" in record.getMessage()
    assert "handler" in record.getMessage()
    assert "no such page" in str(record.exc_text)


def test_no_log(dial: Dial, caplog: pytest.LogCaptureFixture) -> None:
    """``log=False`` is silent."""
    caplog.set_level(logging.DEBUG)
    serve_one(Server(LOCAL, ThreadPool(1), fail, log=False), dial)
    assert caplog.records == []


def test_peer_that_hangs_up(dial: Dial, caplog: pytest.LogCaptureFixture, recorder: Recorder) -> None:
    """A client that connects and leaves is worth no record."""
    caplog.set_level(logging.INFO, "tricorn")

    def talk(connection: Any) -> None:
        while connection.recv(100):
            pass

    with Server(LOCAL, ThreadPool(1), talk, observers=[recorder]) as server:
        server.start()
        dial(server).close()
        recorder.outcome(1)
    assert not [each for each in caplog.records if "request" in each.getMessage()]


def test_refusal(dial: Dial, recorder: Recorder) -> None:
    """A refused request is told as such, with the reason, and never as started."""
    serve_one(Server(LOCAL, ThreadPool(1), answer, verify=lambda _: False, observers=[recorder]), dial)
    (refused,) = recorder.of(JobRefused)
    assert (refused.outcome.status, refused.outcome.detail) == (Status.REFUSED, "verify returned false")
    assert not recorder.of(JobStarted) and not recorder.of(JobFinished)
