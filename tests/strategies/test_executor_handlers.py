"""Executor: which handlers and options it takes, and what is said of the others."""

from __future__ import annotations

import importlib.util
import multiprocessing
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tricorn import Server
from tricorn.errors import ConfigurationError, IncompatibleParts, StateError
from tricorn.events import Status
from tricorn.handlers import Lines, message
from tricorn.names import dispatcher
from tricorn.strategies import Executor
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, Memory

pytestmark = pytest.mark.usefixtures("servants_of_multiprocessing")

loky = pytest.importorskip("loky") if importlib.util.find_spec("loky") else None
without_loky = pytest.mark.skipif(loky is None, reason="loky is not installed")
slow = pytest.mark.slow

Dial = Callable[..., socket.socket]


def processes(method: str) -> Callable[[], futures.Executor]:
    return lambda: futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method))


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


def test_state_does_not_travel(handlers: Any) -> None:
    """A handler that wants it is refused when the server is built, in a sentence that names what works."""
    with pytest.raises(IncompatibleParts, match=r"state does not travel; use Selector\(\)"):
        Server(TCP("127.0.0.1", 0), Executor(kind="thread"), handlers.stateful)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda stack: Executor(), id="our own"),
        pytest.param(lambda stack: Executor(stack.enter_context(processes("spawn")())), id="a given one"),
    ],
)
def test_a_handler_that_cannot_be_sent(make: Any) -> None:
    """It is refused when the server is built, where the pool has processes."""

    @message(Lines())
    def local(line: bytes) -> bytes:
        return line

    with ExitStack() as stack, pytest.raises(IncompatibleParts, match="cannot be sent to another process"):
        Server(TCP("127.0.0.1", 0), make(stack), local)


def test_a_handler_that_cannot_be_sent_to_a_pool_made_later() -> None:
    """Where only the pool that a callable makes tells, it is refused when serving begins."""

    @message(Lines())
    def local(line: bytes) -> bytes:
        return line

    server = Server(TCP("127.0.0.1", 0), Executor(processes("spawn")), local, log=False)
    with pytest.raises(IncompatibleParts, match="cannot be sent to another process"):
        server.serve_forever()


@without_loky
@slow
def test_a_local_handler_on_loky(dial: Dial) -> None:
    """loky takes a function along by its code."""
    factor = 3

    @message(Lines())
    def times(line: bytes) -> bytes:
        return line * factor

    with served(Executor(kind="loky", workers=1), times) as server:
        assert ask(dial(server.addresses[0]), "ab") == "ababab"


@slow
def test_a_handler_that_the_workers_cannot_import(
    handlers: Any, dial: Dial, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs the connection, and says what is missing; the workers live on."""
    monkeypatch.setattr(handlers.obey, "__module__", "nowhere_at_all")
    monkeypatch.setitem(sys.modules, "nowhere_at_all", handlers)
    with served(Executor(workers=1), handlers.obey, observers=[recorder]) as server:
        for _ in range(2):
            assert rest(dial(server.addresses[0], b"say on\n")) == b""
    for number in (1, 2):
        assert recorder.outcome(number).status is Status.FAILED
        assert isinstance(recorder.outcome(number).error, ModuleNotFoundError)


@pytest.mark.parametrize("method", [pytest.param("spawn", marks=slow), pytest.param("fork", marks=slow)])
def test_a_handler_of_the_main_module(method: str, tmp_path: Path) -> None:
    """A program's own file may have the handler; a forking pool is fine while the program has one thread."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(MAIN))
    program = subprocess.Popen(
        [sys.executable, "-W", "error", str(path), method], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        port = int(program.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            assert ask(client, "hello") == "HELLO"
        program.terminate()
        _, said = program.communicate(timeout=20)
    finally:
        program.kill()
        program.communicate()
    assert (program.returncode, "Traceback" in said) == (0, False)


MAIN = """
    import multiprocessing, signal, sys
    from concurrent.futures import ProcessPoolExecutor
    from tricorn import Server
    from tricorn.handlers import Lines, message
    from tricorn.strategies import Executor
    from tricorn.transports import TCP

    @message(Lines())
    def shout(line):
        return line.upper()

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        pool = Executor(lambda: ProcessPoolExecutor(1, mp_context=context))
        with Server(TCP("127.0.0.1", 0), pool, shout) as server:
            print(server.addresses[0][1], flush=True)
            server.serve_forever(signals=True)
"""


def test_a_forking_pool_beside_threads(handlers: Any) -> None:
    """It is refused, as all forking is in a program with threads."""
    stop = threading.Event()
    other = threading.Thread(target=stop.wait, name="another")
    other.start()
    try:
        with processes("fork")() as pool:
            server = Server(TCP("127.0.0.1", 0), Executor(pool), handlers.obey, log=False)
            with pytest.raises(StateError, match="another"):
                server.serve_forever()
    finally:
        stop.set()
        other.join()


def test_needs_descriptors(handlers: Any) -> None:
    """Connections that exist in memory alone are refused."""
    with pytest.raises(IncompatibleParts, match="waits for descriptors"):
        Server(Memory(), Executor(kind="thread"), handlers.obey)


def test_functions_are_refused() -> None:
    """Only messages travel."""
    with pytest.raises(IncompatibleParts, match="message handler"):
        Server(TCP("127.0.0.1", 0), Executor(kind="thread"), print)


def test_by_name() -> None:
    """``executor`` with its options; the room follows the workers."""
    made = dispatcher("executor?kind=thread&workers=3&pipeline=2")
    assert isinstance(made, Executor)
    assert (made.kind, made.workers, made.max_in_flight, made.pipeline) == ("thread", 3, 12, 2)
    assert made.concurrency is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": 5}, "concurrent.futures.Executor, or a callable"),
        ({"kind": "steam"}, "steam"),
        ({"workers": 0}, "workers must be a whole number, 1 or more"),
        ({"max_in_flight": 0}, "max_in_flight must be"),
        ({"pipeline": 0}, "pipeline must be"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    """Each is refused at once, and named."""
    with pytest.raises(ValueError, match=words):
        Executor(**options)


def test_kinds_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setattr("tricorn.strategies.executor.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'tricorn\[loky\]'"):
        Executor(kind="loky")
    monkeypatch.delattr(futures, "InterpreterPoolExecutor", raising=False)
    with pytest.raises(ConfigurationError, match=r"needs Python 3\.14"):
        Executor(kind="interpreter")
