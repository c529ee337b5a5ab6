"""Strategies that the original does not have, under old classes: one column of the table for each dispatcher."""

from __future__ import annotations

import http.server
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tricorn import plugins, socketserver

LOOPBACK = ("127.0.0.1", 0)
PATIENCE_S = 20
COLUMNS = ("Sync", "Thread", "Fork", "ThreadPool", "ProcessPool")
ROWS = ("TCP", "UDP", "UnixStream", "UnixDatagram")


class Upper(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.readline().upper())


class UpperDatagram(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


@contextmanager
def serving(server: Any) -> Iterator[Any]:
    """Serve in a thread, shut down, close."""
    thread = threading.Thread(target=server.serve_forever)
    with server:
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(PATIENCE_S)


def connect(server: Any, line: bytes = b"a line\n") -> socket.socket:
    client = socket.create_connection(server.server_address[:2], PATIENCE_S)
    client.sendall(line)
    return client


@pytest.mark.parametrize("column", COLUMNS)
def test_every_dispatcher_has_a_column(column: str) -> None:
    """A mix-in and four classes, made once, at home in the facade; they are old servers in everything."""
    mix_in = getattr(socketserver, f"{column}MixIn")
    assert (mix_in.__name__, mix_in.__module__) == (f"{column}MixIn", "tricorn.socketserver")
    for row in ROWS:
        name = f"{column}{row}Server"
        made = getattr(socketserver, name)
        assert made.__bases__ == (mix_in, getattr(socketserver, f"{row}Server"))
        assert (made.__name__, made.__module__) == (name, "tricorn.socketserver")
        assert getattr(socketserver, name) is made
        assert name not in socketserver.__all__


SINGLE_THREADED = """
    import os, socket, sys
    from tricorn import socketserver

    name, in_process = sys.argv[1:]
    datagrams = "UDP" in name or "Datagram" in name
    base = socketserver.DatagramRequestHandler if datagrams else socketserver.StreamRequestHandler

    class Handler(base):
        def handle(self):
            self.wfile.write(self.rfile.readline().upper() + str(os.getpid()).encode())

    server = getattr(socketserver, name)("server" if "Unix" in name else ("127.0.0.1", 0), Handler)
    with server:
        for number in range(3):
            with socket.socket(server.address_family, server.socket_type) as client:
                client.settimeout(20)
                if "UnixDatagram" in name:
                    client.bind("client%d" % number)
                client.connect(server.server_address)
                client.send(b"a line\\n")
                server.handle_request()
                text, pid = client.recv(100).split(b"\\n")
                print(text.decode(), (int(pid) == os.getpid()) is (in_process == "True"))
    """


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ROWS)
def test_every_class_serves(script: Any, column: str, row: str) -> None:
    """Streams and datagrams, in this process or in another, as the strategy has it; closing leaves nothing behind."""
    in_process = column not in {"Fork", "ProcessPool"}
    out, err = script(SINGLE_THREADED, f"{column}{row}Server", in_process).communicate(timeout=PATIENCE_S)
    assert (out.splitlines(), err) == (["A LINE True"] * 3, "")


def test_options_are_class_attributes() -> None:
    """Of the class, of a subclass, or of the instance before the first request."""
    assert socketserver.ThreadPoolMixIn.workers == 16

    class Server(socketserver.ThreadPoolTCPServer):
        workers = 3

    busy = threading.Semaphore(0)
    let_go = threading.Event()

    class Waiting(Upper):
        def handle(self) -> None:
            busy.release()
            assert let_go.wait(PATIENCE_S)
            super().handle()

    with serving(Server(LOOPBACK, Waiting)) as server, ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(5)]
        for _ in range(3):
            assert busy.acquire(timeout=PATIENCE_S)
        assert sum(thread.name.startswith("tricorn-worker") for thread in threading.enumerate()) == 3
        let_go.set()
        assert [client.recv(100) for client in clients] == [b"A LINE\n"] * 5


def test_an_option_that_is_wrong_is_an_error_of_the_request() -> None:
    """The dispatcher's own words reach `handle_error`, and the client is closed."""
    errors: list[BaseException | None] = []

    class Server(socketserver.ThreadPoolTCPServer):
        workers = 0

        def handle_error(self, request: Any, client_address: Any) -> None:
            errors.append(sys.exc_info()[1])

    with Server(LOOPBACK, Upper) as server, connect(server) as client:
        server.handle_request()
        with pytest.raises(ConnectionResetError):
            assert client.recv(1) == b""
            raise ConnectionResetError
    assert "workers must be at least 1" in str(errors[0])


def test_thread_pool_mix_in_with_http_server() -> None:
    """Also on the interpreter's own `HTTPServer`, which stands on the original, as `ThreadingMixIn` would."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(threading.current_thread().name.encode())

        def log_message(self, *args: Any) -> None:
            pass

    class Server(socketserver.ThreadPoolMixIn, http.server.HTTPServer):
        workers = 2

        def server_bind(self) -> None:
            socketserver.TCPServer.server_bind(self)  # http.server's own looks names up

    with serving(Server(LOOPBACK, Handler)) as server, connect(server, b"GET / HTTP/1.0\r\n\r\n") as client:
        answer = b"".join(iter(lambda: client.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert answer.endswith((b"tricorn-worker-0", b"tricorn-worker-1"))


@pytest.mark.parametrize("column", ["Sync", "Thread", "ThreadPool"])
def test_errors_of_handlers_reach_handle_error(column: str) -> None:
    """With the request and the address; then the request is shut down, by the server's own method."""
    steps: list[Any] = []

    class Failing(Upper):
        def handle(self) -> None:
            raise RuntimeError("of the handler")

    class Server(getattr(socketserver, f"{column}TCPServer")):  # type: ignore[misc]
        def handle_error(self, request: Any, client_address: Any) -> None:
            steps.append((repr(sys.exc_info()[1]), client_address))

        def shutdown_request(self, request: Any) -> None:
            steps.append(type(request))
            super().shutdown_request(request)

    with serving(Server(LOOPBACK, Failing)) as server, connect(server, b"") as client:
        assert client.recv(1) == b""
        name = client.getsockname()
    assert steps == [("RuntimeError('of the handler')", name), socket.socket]


def test_server_close_waits_for_requests() -> None:
    """What is being served ends in peace; it returns when that is done."""
    begun, let_go = threading.Event(), threading.Event()

    class Waiting(Upper):
        def handle(self) -> None:
            begun.set()
            assert let_go.wait(PATIENCE_S)
            super().handle()

    server = socketserver.ThreadPoolTCPServer(LOOPBACK, Waiting)
    with connect(server) as client:
        server.handle_request()
        assert begun.wait(PATIENCE_S)
        closer = threading.Thread(target=server.server_close)
        closer.start()
        let_go.set()
        assert client.recv(100) == b"A LINE\n"
        closer.join(PATIENCE_S)
        assert not closer.is_alive()


def test_server_close_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is silent is cut off when the time is over."""
    monkeypatch.setattr("tricorn.legacy.carrying.DRAIN_TIMEOUT_S", 0.2)
    begun = threading.Event()

    class Reading(Upper):
        def handle(self) -> None:
            begun.set()
            super().handle()

    with socketserver.ThreadPoolTCPServer(LOOPBACK, Reading) as server, connect(server, b"") as client:
        server.handle_request()
        assert begun.wait(PATIENCE_S)
        server.server_close()
        assert client.recv(1) == b""


def test_a_handler_may_close_its_server() -> None:
    """Under `Sync` it runs in the very thread that would wait for it."""

    class Closing(Upper):
        def handle(self) -> None:
            self.server.server_close()
            super().handle()

    with socketserver.SyncTCPServer(LOOPBACK, Closing) as server, connect(server) as client:
        server.serve_forever()
        assert client.recv(100) == b"A LINE\n"


def test_requests_that_are_no_sockets() -> None:
    """A row of a table, say: a `BaseServer` with `get_request` and a pool."""
    rows, served, done = [(1, "tea"), (2, "cake")], set(), threading.Semaphore(0)

    class Server(socketserver.ThreadPoolMixIn, socketserver.BaseServer):
        def get_request(self) -> Any:
            if not rows:
                raise BlockingIOError
            return rows.pop(), "table"

    def handler(request: Any, client_address: Any, server: Any) -> None:
        served.add((request, client_address))
        done.release()

    with serving(Server("orders", handler)):
        for _ in range(2):
            assert done.acquire(timeout=PATIENCE_S)
    assert served == {((1, "tea"), "table"), ((2, "cake"), "table")}


# -- dispatchers of other distributions

ACME = """
    import selectors, threading
    from tricorn.contracts import Dispatcher, Kind, Shape
    from tricorn.hookspecs import hookimpl
    from tricorn.parts import DispatcherPart

    class Spawn(Dispatcher):
        "A thread for each job."
        def __init__(self, name: str = "spawned"):
            self.name = name
            self.threads = []
        def dispatch(self, job):
            self.threads.append(threading.Thread(target=job.run, name=self.name))
            self.threads[-1].start()
        def join(self, deadline):
            for thread in self.threads:
                thread.join(deadline.remaining())
            return not any(thread.is_alive() for thread in self.threads)

    class Loop(Dispatcher):
        "Only serves an intake, as event loops do: waits for its descriptor, polls."
        needs_descriptors = True
        def serve(self, intake):
            with selectors.DefaultSelector() as selector:
                selector.register(intake.fileno(), selectors.EVENT_READ)
                while not intake.stopped:
                    selector.select()
                    while (job := intake.poll()) is not None:
                        job.run()

    class Streams(Spawn):
        kinds = frozenset({Kind.STREAM})

    class Coroutines(Spawn):
        shapes = frozenset({Shape.COROUTINE})

    @hookimpl
    def tricorn_dispatchers():
        for name, target in {
            "acme-spawn": Spawn, "acme-loop": Loop, "acme-streams": Streams, "acme-coroutines": Coroutines,
            "acme-missing": "acme_parts:Missing",
        }.items():
            yield DispatcherPart(name, target)
    """


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution in front of ``sys.path``, for one test; the classes made of it are forgotten again."""
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tricorn]\nmain = acme_parts\n")
    (tmp_path / "acme_parts.py").write_text(dedent(ACME))
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.reset()
    yield
    sys.modules.pop("acme_parts", None)
    for name in [name for name in vars(socketserver) if name.startswith("Acme")]:
        delattr(socketserver, name)
    plugins.reset()


def naming(report: Callable[[str], None]) -> type:
    class Handler(Upper):
        def handle(self) -> None:
            report(threading.current_thread().name)
            super().handle()

    return Handler


def test_a_dispatcher_of_another_distribution(acme: None) -> None:
    """Its constructor's arguments are the options."""
    names: list[str] = []

    class Server(socketserver.AcmeSpawnTCPServer):  # type: ignore[misc]
        name = "renamed"

    assert socketserver.AcmeSpawnMixIn.name == "spawned"
    with serving(Server(LOOPBACK, naming(names.append))) as server, connect(server) as client:
        assert client.recv(100) == b"A LINE\n"
    assert names == ["renamed"]


def test_a_dispatcher_that_only_serves_an_intake(acme: None) -> None:
    """An event loop gets a thread of its own and finds the server's requests there."""
    names: list[str] = []
    with serving(socketserver.AcmeLoopTCPServer(LOOPBACK, naming(names.append))) as server:
        for _ in range(3):
            with connect(server) as client:
                assert client.recv(100) == b"A LINE\n"
    assert names == ["tricorn-dispatcher"] * 3


def test_datagrams_for_an_event_loop(acme: None) -> None:
    """They go the same way."""
    with (
        serving(socketserver.AcmeLoopUDPServer(LOOPBACK, UpperDatagram)) as server,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(PATIENCE_S)
        client.sendto(b"a packet", server.server_address)
        assert client.recv(100) == b"A PACKET"


def test_what_an_event_loop_has_not_taken_is_served_before_the_end(acme: None) -> None:
    """`server_close` right after the last request loses none."""
    with ExitStack() as stack:
        with stack.enter_context(socketserver.AcmeLoopTCPServer(LOOPBACK, Upper)) as server:
            clients = [stack.enter_context(connect(server)) for _ in range(5)]
            for _ in clients:
                server.handle_request()
        assert [client.recv(100) for client in clients] == [b"A LINE\n"] * 5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("AcmeStreamsUDPServer", "serves no datagram requests"),
        ("AcmeCoroutinesMixIn", "calls no request-handler class"),
        ("AcmeMissingTCPServer", "could not be loaded"),
        ("AcmeNothingTCPServer", "has no attribute 'AcmeNothingTCPServer'"),
    ],
)
def test_what_cannot_be_is_absent(acme: None, name: str, words: str) -> None:
    """An `AttributeError` that says why, as far as there is anything to say."""
    with pytest.raises(AttributeError, match=words):
        getattr(socketserver, name)
    assert not hasattr(socketserver, name)
