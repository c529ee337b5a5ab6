"""A handler costs its own request, whatever it raises, and nothing else."""

from __future__ import annotations

import contextvars
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import Server, State, Status
from tricorn.contracts import Dispatcher
from tricorn.events import JobFinished
from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP

Dial = Callable[[Any], socket.socket]
LOCAL = TCP("127.0.0.1", 0)

every_dispatcher = pytest.mark.parametrize(
    "dispatcher",
    [Sync, Thread, ThreadPool, Fork, lambda: ProcessPool(1)],
    ids=["Sync", "Thread", "ThreadPool", "Fork", "ProcessPool"],
)


class Custom(BaseException):
    """Somebody's own, which nobody catches."""


RAISED: dict[bytes, Callable[[], BaseException]] = {
    b"ValueError": lambda: ValueError("of the handler"),
    b"OSError": lambda: OSError("of the handler"),
    b"ConnectionError": lambda: ConnectionError("of another connection"),
    b"TimeoutError": lambda: TimeoutError("of another connection"),
    b"SystemExit": lambda: SystemExit(3),
    b"KeyboardInterrupt": KeyboardInterrupt,
    b"GeneratorExit": GeneratorExit,
    b"Custom": Custom,
}


def raise_what_is_said(connection: Any) -> None:
    word = connection.recv(100)
    if word in RAISED:
        make = RAISED[word]
        raise make()
    connection.send(word)


@every_dispatcher
def test_raising(dispatcher: Callable[[], Dispatcher], dial: Dial, recorder: Recorder) -> None:
    """Its own errors are failures, also where they look like the peer's, or like a wish to end the program."""
    with Server(LOCAL, dispatcher(), raise_what_is_said, observers=[recorder], log=False) as server:
        server.start()
        for n, word in enumerate(RAISED, 1):
            client = dial(server)
            client.sendall(word)
            assert client.recv(100) == b""
            outcome = recorder.outcome(n)
            assert outcome.status is Status.FAILED
            assert word.decode() in (type(outcome.error).__name__, str(outcome.error).partition(":")[0])
        client = dial(server)
        client.sendall(b"still here")
        assert client.recv(100) == b"still here"
        report = server.drain()
    assert (report.failed, report.completed) == (len(RAISED), 1)


def interrupt_us(connection: Any) -> None:
    connection.recv(100)
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("Ctrl-C was not raised in the handler")


def test_ctrl_c_in_the_main_thread(dial: Dial) -> None:
    """Ctrl-C while a handler runs in the main thread is raised there, and by serve_forever when all is tidy."""
    server = Server(LOCAL, Sync(), interrupt_us, log=False)
    server.bind()
    dial(server).sendall(b"now")
    with pytest.raises(KeyboardInterrupt):
        server.serve_forever()
    assert server.report is not None and server.report.failed == 1
    assert server.state is State.CLOSED


def test_ctrl_c_with_signals(dial: Dial) -> None:
    """With ``signals=True`` Ctrl-C raises nothing, so it is the handler's own, and costs only its request."""
    server = Server(LOCAL, Sync(), raise_what_is_said, log=False)
    server.bind()
    dial(server).sendall(b"KeyboardInterrupt")
    client = dial(server)
    client.sendall(b"served")

    def stop(event: Any) -> None:
        if isinstance(event, JobFinished) and event.outcome.status is Status.COMPLETED:
            server.request_stop()

    server._observers = type(server._observers)([stop])
    server._engine.service.ledger.observers = server._observers  # type: ignore[union-attr]
    report = server.serve_forever(signals=True)
    assert (report.failed, report.completed) == (1, 1)


@every_dispatcher
def test_leaving(dispatcher: Callable[[], Dispatcher], dial: Dial, recorder: Recorder) -> None:
    """Clients that connect and leave cost nothing, not even the ones that are served beside them."""
    with Server(LOCAL, dispatcher(), raise_what_is_said, observers=[recorder]) as server:
        server.start()
        for _ in range(5):
            dial(server).close()
        recorder.wait(JobFinished, 5)
        client = dial(server)
        client.sendall(b"still here")
        assert client.recv(100) == b"still here"


@every_dispatcher
def test_closing(dispatcher: Callable[[], Dispatcher], dial: Dial) -> None:
    """A handler may close its connection, in every way there is."""

    def close(connection: Any) -> None:
        match connection.recv(100):
            case b"close":
                connection.close()
                connection.close()
            case b"socket":
                connection.socket.close()
            case b"detach":
                socket.socket(fileno=connection.socket.detach()).close()
            case b"shutdown":
                connection.socket.shutdown(socket.SHUT_RDWR)

    with Server(LOCAL, dispatcher(), close) as server:
        server.start()
        for word in (b"close", b"socket", b"detach", b"shutdown"):
            client = dial(server)
            client.sendall(word)
            assert client.recv(100) == b""
        assert server.drain().completed == 4


LETTER: contextvars.ContextVar[str] = contextvars.ContextVar("letter", default="unset")


@every_dispatcher
def test_context(dispatcher: Callable[[], Dispatcher], dial: Dial) -> None:
    """Each request gets a fresh copy of the context in which the server was built."""

    def tell(connection: Any) -> None:
        connection.send(LETTER.get().encode())
        LETTER.set("scribbled over")

    token = LETTER.set("when it was built")
    server = Server(LOCAL, dispatcher(), tell)
    LETTER.reset(token)
    with server:
        server.start()
        assert [dial(server).recv(100) for _ in range(3)] == [b"when it was built"] * 3
    assert LETTER.get() == "unset"
