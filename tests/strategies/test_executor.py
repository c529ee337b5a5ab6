"""Executor: message handlers on any `concurrent.futures.Executor`."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tricorn import Server
from tricorn.errors import ConfigurationError, RemoteError, StateError, WorkerLost
from tricorn.events import JobStarted, Status
from tricorn.handlers import Lines, message
from tricorn.strategies import Executor
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP

pytestmark = pytest.mark.usefixtures("servants_of_multiprocessing")

loky = pytest.importorskip("loky") if importlib.util.find_spec("loky") else None
without_loky = pytest.mark.skipif(loky is None, reason="loky is not installed")
without_interpreters = pytest.mark.skipif(
    not hasattr(futures, "InterpreterPoolExecutor"), reason="InterpreterPoolExecutor needs Python 3.14"
)
slow = pytest.mark.slow

Dial = Callable[..., socket.socket]


def processes(method: str) -> Callable[[], futures.Executor]:
    return lambda: futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method))


KINDS = [
    pytest.param(lambda: Executor(kind="thread", workers=2), id="thread"),
    pytest.param(lambda: Executor(kind="process", workers=2), id="process", marks=slow),
    pytest.param(lambda: Executor(kind="loky", workers=2), id="loky", marks=[without_loky, slow]),
    pytest.param(lambda: Executor(kind="interpreter", workers=2), id="interpreter", marks=[without_interpreters, slow]),
    pytest.param(lambda: Executor(processes("forkserver")), id="a factory of forkserver", marks=slow),
    pytest.param(
        lambda: Executor(lambda: loky.get_reusable_executor(max_workers=2)),
        id="loky's reusable one",
        marks=[without_loky, slow],
    ),
]


@contextmanager
def served(dispatcher: Executor, handler: Any, transport: Any = None, **options: Any) -> Iterator[Any]:
    with Server(transport or TCP("127.0.0.1", 0), dispatcher, handler, log=False, **options) as server:
        server.start()
        yield server


def ask(client: socket.socket, line: str) -> str:
    client.sendall(line.encode() + b"\n")
    return hear(client)


def hear(client: socket.socket) -> str:
    """One line, read byte by byte so that nothing is read ahead."""
    data = b""
    while not data.endswith(b"\n"):
        more = client.recv(1)
        if not more:
            return data.decode()
        data += more
    return data.decode().rstrip("\n")


def rest(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize("make", KINDS)
def test_replies(make: Callable[[], Executor], handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """Replies come in the order of the messages, over several connections at once; the function's errors come back."""
    with served(make(), handlers.obey, observers=[recorder]) as server:
        clients = [dial(server.addresses[0]) for _ in range(3)]
        for client in clients:
            client.sendall(b"".join(b"say %d\n" % n for n in range(20)))
        for client in clients:
            assert [hear(client) for _ in range(20)] == [str(n) for n in range(20)]
        assert ask(clients[0], "peer") == repr(clients[0].getsockname())
        assert ask(clients[0], "raise value") == ""
        error = recorder.outcome(1).error
        assert isinstance(error, ValueError)
        assert error.args == ("of kind value",)
        assert ask(clients[1], "say on") == "ON"
        report = server.drain(10)
    assert (report.completed, report.failed) == (2, 1)


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        pytest.param("raise refused", ConnectionRefusedError, "of kind refused", id="one of the system's"),
        pytest.param("raise exit", SystemExit, "of kind exit", id="SystemExit"),
        pytest.param("raise odd", RemoteError, "Odd: one", id="one that cannot be pickled"),
        pytest.param("say " + "x" * 300_000, ValueError, "max_length", id="none: the line is too long"),
    ],
)
@slow
def test_errors(words: str, kind: type, text: str, handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """An error of the function ends its connection as FAILED, whatever its kind; one of the framing as REFUSED."""
    with served(Executor(workers=1), handlers.obey, observers=[recorder]) as server:
        client = dial(server.addresses[0], b"say before\n" + words.encode() + b"\nsay after\n")
        said = rest(client)
        outcome = recorder.outcome(1)
    assert text in str(outcome.error)
    assert isinstance(outcome.error, kind)
    if len(words) > 1000:
        assert (said, outcome.status) == (b"BEFORE\ntoo long\n", Status.REFUSED)
    else:
        assert (said, outcome.status) == (b"BEFORE\n", Status.FAILED)
        assert any("raised in process" in note for note in outcome.error.__notes__)


def test_replies_before_an_error_are_sent(handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """Also those that the failing message itself had yielded; what comes after it is not begun."""
    with served(Executor(kind="thread"), handlers.obey, observers=[recorder]) as server:
        assert rest(dial(server.addresses[0], b"say first\ntwo\nsay never\n")) == b"FIRST\none\ntwo\n"
        assert recorder.outcome(1).status is Status.FAILED


@pytest.mark.parametrize("make", [each for each in KINDS if each.id not in ("thread", "interpreter")])
def test_a_lost_worker(make: Callable[[], Executor], handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """A worker that dies costs its message's connection, as LOST; the pool is made again."""
    with served(make(), handlers.obey, observers=[recorder]) as server:
        first = ask(dial(server.addresses[0]), "pid")
        assert rest(dial(server.addresses[0], b"say before\ndie\nsay after\n")) == b"BEFORE\n"
        outcome = recorder.outcome(1)
        assert outcome.status is Status.LOST
        assert isinstance(outcome.error, WorkerLost)
        again = ask(dial(server.addresses[0]), "pid")
        assert again.isdigit()
        assert again != first
        report = server.drain(10)
    assert (report.lost, report.completed) == (1, 2)


@slow
def test_a_given_pool_that_breaks_ends_serving(handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """It cannot be replaced: serving raises, and says what to do."""
    with processes("spawn")() as given:
        server = Server(TCP("127.0.0.1", 0), Executor(given), handlers.obey, observers=[recorder], log=False)
        server.bind()
        client = dial(server.addresses[0], b"die\n")
        with pytest.raises(WorkerLost, match="give a callable"):
            server.serve_forever()
        assert rest(client) == b""
        assert recorder.outcome(1).status is Status.LOST


def test_a_given_pool_is_left_running(handlers: Any, dial: Dial) -> None:
    """It is the giver's to shut down."""
    with futures.ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            with served(Executor(pool), handlers.obey) as server:
                assert ask(dial(server.addresses[0]), "say on") == "ON"
        assert pool.submit(str, 5).result(10) == "5"


def test_a_pool_that_is_shut_down(handlers: Any) -> None:
    """Serving with it fails at once."""
    pool = futures.ThreadPoolExecutor(1)
    pool.shutdown()
    server = Server(TCP("127.0.0.1", 0), Executor(pool), handlers.obey, log=False)
    with pytest.raises(StateError, match="cannot be used any more"):
        server.serve_forever()


def test_a_pool_that_is_shut_down_while_it_serves(handlers: Any, dial: Dial, recorder: Recorder) -> None:
    """The next message's connection ends with the error, and so does serving."""
    pool = futures.ThreadPoolExecutor(1)
    server = Server(TCP("127.0.0.1", 0), Executor(pool), handlers.obey, observers=[recorder], log=False)
    server.bind()
    client = dial(server.addresses[0])

    def talk() -> None:
        ask(client, "say on")
        pool.shutdown()
        client.sendall(b"say off\n")

    talking = threading.Thread(target=talk)
    talking.start()
    with pytest.raises(StateError, match="cannot be used any more"):
        server.serve_forever()
    talking.join()
    assert rest(client) == b""
    assert recorder.outcome(1).status is Status.FAILED


def test_what_makes_no_pool(handlers: Any) -> None:
    """A callable that returns something else is refused when it is called."""
    with pytest.raises(ConfigurationError, match="no concurrent.futures.Executor"):
        Server(TCP("127.0.0.1", 0), Executor(dict), handlers.obey, log=False).serve_forever()


# -- endings


@pytest.mark.parametrize("make", KINDS[:3])
def test_drain(make: Callable[[], Executor], handlers: Any, dial: Dial, tmp_path: Path) -> None:
    """What is in flight is answered; idle connections end at once."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    with served(make(), handlers.obey) as server:
        idle = dial(server.addresses[0], b"say on\n")
        assert hear(idle) == "ON"
        busy = dial(server.addresses[0], f"gate {path}\n".encode())
        with open(path, "w") as gate:
            server.request_stop()
            assert rest(idle) == b""
            gate.write("let go")
        assert rest(busy) == b"let go\n"
        report = server.drain(10)
    assert (report.completed, report.abandoned) == (2, ())


@pytest.mark.parametrize("make", KINDS[1:3])
def test_a_drain_that_passes_its_deadline(
    make: Callable[[], Executor], handlers: Any, dial: Dial, tmp_path: Path, recorder: Recorder
) -> None:
    """Messages that are still worked on are cut off, and the processes are gone with them."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    with served(make(), handlers.obey, observers=[recorder]) as server:
        stuck = dial(server.addresses[0], f"gate {path}\nsay never\n".encode())
        with open(path, "w"):
            report = server.drain(0.1)
        assert rest(stuck) == b""
    assert report.cancelled == 1
    assert recorder.outcome(1).status is Status.CANCELLED


def test_a_drain_that_passes_its_deadline_on_threads(dial: Dial, recorder: Recorder) -> None:
    """A thread cannot be ended; its connection is, and what was not begun never is."""
    gate = threading.Event()
    begun: list[bytes] = []
    first = threading.Event()

    @message(Lines())
    def wait(line: bytes) -> bytes:
        begun.append(line)
        first.set()
        gate.wait(20)
        return line

    with served(Executor(kind="thread", workers=1), wait, observers=[recorder]) as server:
        clients = [dial(server.addresses[0], b"%d\n" % n) for n in range(3)]
        assert first.wait(10)
        recorder.wait(JobStarted, 3)
        report = server.drain(0.1)
        assert [rest(client) for client in clients] == [b"", b"", b""]
        gate.set()
    assert report.cancelled == 3
    assert len(begun) == 1


def test_again(handlers: Any, dial: Dial) -> None:
    """One server after the other may use it; while one does, it refuses another."""
    executor = Executor(kind="thread")
    for _ in range(2):
        with served(executor, handlers.obey) as server:
            assert ask(dial(server.addresses[0]), "say on") == "ON"
            with pytest.raises(StateError, match="serves already"):
                executor.serve(server)  # type: ignore[arg-type]
