"""Where the facade differs from the original on purpose; the docstring of `tricorn.socketserver` lists these tests."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tricorn import socketserver

LOOPBACK = ("127.0.0.1", 0)
#: Seconds after which something that should happen at once is taken for hung; below the poll interval used here.
PATIENCE_S = 20
HOUR_S = 3600


class Server(socketserver.TCPServer):
    """Tells when its loop goes round."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.turned = threading.Event()
        super().__init__(*args, **options)

    def service_actions(self) -> None:
        self.turned.set()


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.readline())


def ask(address: Any, line: bytes = b"hello\n") -> bytes:
    """What the server says to a line."""
    with socket.create_connection(address, PATIENCE_S) as client:
        client.sendall(line)
        return b"".join(iter(lambda: client.recv(1000), b""))


@contextmanager
def serving(server: Any, poll_interval: float = HOUR_S) -> Iterator[threading.Thread]:
    """Serve in a thread; the block must see to it that this ends."""
    thread = threading.Thread(target=server.serve_forever, args=(poll_interval,))
    thread.start()
    try:
        yield thread
    finally:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_shutdown_wakes_at_once() -> None:
    """With a poll interval of an hour, `shutdown` still returns, and the loop has ended by then."""
    with Server(LOOPBACK, Echo) as server, serving(server):
        assert ask(server.server_address) == b"hello\n"
        assert server.turned.wait(PATIENCE_S)
        server.shutdown()
        assert server._BaseServer__is_shut_down.is_set()


def test_shutdown_from_the_serving_thread() -> None:
    """In a handler that runs in the loop's own thread, it returns, and the loop ends after the request."""

    class Last(Echo):
        def handle(self) -> None:
            self.server.shutdown()
            super().handle()

    with Server(LOOPBACK, Last) as server, serving(server):
        assert ask(server.server_address) == b"hello\n"


def test_second_shutdown_does_no_harm() -> None:
    """`shutdown` after the loop has ended, from any number of threads, leaves the next `serve_forever` alone."""
    with Server(LOOPBACK, Echo) as server:
        for _ in range(3):
            with serving(server):
                assert ask(server.server_address) == b"hello\n"
                others = [threading.Thread(target=server.shutdown) for _ in range(5)]
                for thread in others:
                    thread.start()
                for thread in others:
                    thread.join()
            server.shutdown()
            assert server._BaseServer__shutdown_request is False


@pytest.mark.parametrize("name", ["TCPServer", "UDPServer", "ThreadingTCPServer"])
def test_server_close_ends_the_loop(name: str) -> None:
    """Without a `shutdown`: what an exception in a `with` block leads to."""
    turned = threading.Event()
    server_class = type("Server", (getattr(socketserver, name),), {"service_actions": lambda self: turned.set()})
    with server_class(LOOPBACK, Echo) as server, serving(server, 0.01):
        assert turned.wait(PATIENCE_S)
        server.server_close()


def test_a_socket_that_is_replaced_does_not_end_the_loop() -> None:
    """A server that closes and binds anew from inside goes on serving."""

    class Moving(Server):
        moved = False

        def service_actions(self) -> None:
            if not self.moved:
                self.moved = True
                self.server_close()
                self.socket = socket.socket(self.address_family, self.socket_type)
                self.server_address = LOOPBACK
                self.server_bind()
                self.server_activate()
                self.turned.set()

    with Moving(LOOPBACK, Echo) as server, serving(server):
        assert ask(server.server_address) == b"hello\n"
        assert server.turned.wait(PATIENCE_S)
        assert ask(server.server_address) == b"hello\n"
        server.shutdown()


def test_out_of_descriptors_backs_off(script: Any) -> None:
    """While no descriptor is left, `get_request` is tried a few times a second; then the client is served."""
    program = script(
        """
        import os, resource, socket, sys, threading
        from tricorn import socketserver

        class Server(socketserver.TCPServer):
            tries = turns = 0
            def get_request(self):
                self.tries += 1
                return super().get_request()
            def service_actions(self):
                self.turns += 1
                if self.turns == 300:
                    os.close(spare)

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"served")
                self.server._BaseServer__shutdown_request = True

        server = Server(("127.0.0.1", 0), Handler)
        client = socket.create_connection(server.server_address)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        one, other = os.pipe()  # the two that the wake-up will need
        spare, more = os.dup(0), []
        try:
            while True:
                more.append(os.dup(0))
        except OSError:
            os.close(one), os.close(other)
        server.serve_forever(0.001)
        print(client.recv(100).decode(), 0 < server.tries < 100, flush=True)
        for fd in more:
            os.close(fd)
        client.close(), server.server_close()
        """
    )
    out, err = program.communicate(timeout=PATIENCE_S)
    assert (out, err) == ("served True\n", "")


@pytest.mark.parametrize("hook", ["verify_request", "handle_error"])
def test_request_is_closed_when_a_hook_raises(hook: str) -> None:
    """The error still leaves the loop, but the client is not left hanging."""

    def raising(self: Any, *args: Any) -> None:
        raise LookupError(hook)

    class Failing(Echo):
        def handle(self) -> None:
            raise RuntimeError("of the handler")

    server_class = type("Server", (socketserver.TCPServer,), {hook: raising})
    with server_class(LOOPBACK, Failing) as server, socket.create_connection(server.server_address) as client:
        client.settimeout(PATIENCE_S)
        with pytest.raises(LookupError, match=hook):
            server.serve_forever()
        assert client.recv(1) == b""


def test_thread_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request is closed, `handle_error` hears of it, and `server_close` works."""
    errors: list[Any] = []

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    class Threading(socketserver.ThreadingTCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            errors.append(client_address)

    with Threading(LOOPBACK, Echo) as server, socket.create_connection(server.server_address, PATIENCE_S) as client:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            server.handle_request()
        assert client.recv(1) == b""
        assert errors == [client.getsockname()]
        assert server._threads == []


FOREIGN = """
    import socket, subprocess, sys
    from tricorn import socketserver

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline())

    class Server(socketserver.ForkingTCPServer):
        max_children = 1

    foreign = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"], stdout=subprocess.PIPE)
    foreign.stdout.read()  # it has ended, or is about to
    with Server(("127.0.0.1", 0), Handler) as server:
        clients = [socket.create_connection(server.server_address) for _ in range(3)]
        for client in clients:
            client.sendall(b"line\\n")
            server.handle_request()
            server.collect_children()  # at max_children: waits
            assert len(server.active_children) <= 1
        print([client.recv(10) for client in clients])
    for client in clients:
        client.close()
    print(foreign.wait(), server.active_children)
    foreign.stdout.close()
    """


def test_foreign_children_keep_their_status(script: Any) -> None:
    """A program's other children are not waited for, also while `max_children` is reached; one's own all are."""
    out, err = script(FOREIGN).communicate(timeout=PATIENCE_S)
    assert (out.splitlines(), err) == (["[b'line\\n', b'line\\n', b'line\\n']", "7 set()"], "")


def test_output_of_a_child_is_kept(script: Any) -> None:
    """What parent and child print into a pipe comes out, once each, though a child ends by `os._exit`."""
    program = script(
        """
        import socket, sys
        from tricorn import socketserver

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                print("from the child")

        print("from the parent, before")
        with socketserver.ForkingTCPServer(("127.0.0.1", 0), Handler) as server:
            for _ in range(2):
                with socket.create_connection(server.server_address) as client:
                    server.handle_request()
                    client.recv(1)
            server.collect_children(blocking=True)
        print("from the parent, after")
        """
    )
    out, err = program.communicate(timeout=PATIENCE_S)
    assert err == ""
    assert sorted(out.splitlines()) == [
        "from the child", "from the child", "from the parent, after", "from the parent, before",
    ]  # fmt: skip


def test_nameless_datagram_client(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Unix client that is bound to no name is handled, gets no reply, and raises nothing."""
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[bytes, Any]] = []

    class Handler(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            seen.append((self.rfile.read(), self.client_address))
            self.wfile.write(b"who is there?")

    class Strict(socketserver.UnixDatagramServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            raise AssertionError("nothing went wrong")

    with Strict("server", Handler) as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", "server")
        server.handle_request()
    assert seen == [(b"hello", None)]


class TableServer(socketserver.BaseServer):
    """The example of the module's first text: read entries from an SQL database."""

    def __init__(self, database: sqlite3.Connection, handler: Callable[..., Any]) -> None:
        super().__init__("orders", handler)
        self.database = database
        self.drained = threading.Event()

    def get_request(self) -> tuple[Any, Any]:
        """Return the next table entry."""
        row = self.database.execute("SELECT id, what FROM orders WHERE done = 0 ORDER BY id").fetchone()
        if row is None:
            self.drained.set()
            raise BlockingIOError("no order is open")
        return row, "table orders"

    def close_request(self, request: Any) -> None:
        self.database.execute("UPDATE orders SET done = 1 WHERE id = ?", request[:1])


def make_table(*orders: str) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, what TEXT, done INTEGER DEFAULT 0)")
    database.executemany("INSERT INTO orders (what) VALUES (?)", [(each,) for each in orders])
    return database


def test_server_without_a_socket() -> None:
    """`BaseServer` with `get_request` alone serves a table's rows; `shutdown` ends it while there is none."""
    served: list[Any] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            served.append((self.request[1], self.client_address))

    database = make_table("tea", "cake")
    with TableServer(database, Handler) as server, serving(server):
        assert server.drained.wait(PATIENCE_S)
        server.shutdown()
    assert served == [("tea", "table orders"), ("cake", "table orders")]
    database.execute("INSERT INTO orders (what) VALUES ('more')")
    server.handle_request()
    assert served[2:] == [("more", "table orders")]
    database.close()


def test_a_server_without_a_socket_looks_again_after_the_poll_interval() -> None:
    """An entry that comes while the loop rests is found; `server_close` ends the loop here too."""
    found = threading.Event()
    database = make_table()
    with TableServer(database, lambda *args: found.set()) as server, serving(server, 0.01):
        assert server.drained.wait(PATIENCE_S)
        database.execute("INSERT INTO orders (what) VALUES ('tea')")
        assert found.wait(PATIENCE_S)
        server.server_close()
    database.close()


def test_shutdown_before_serve_forever() -> None:
    """It waits for a loop to begin, which then ends at once: programs that are stopped at their start rely on it."""
    with Server(LOOPBACK, Echo) as server:
        stopper = threading.Thread(target=server.shutdown)
        stopper.start()
        while not server._BaseServer__shutdown_request:
            stopper.join(0.001)
        assert stopper.is_alive()
        server.serve_forever(HOUR_S)
        stopper.join(PATIENCE_S)
        assert not stopper.is_alive()
        assert not server.turned.is_set()


def test_the_docstring_names_these_tests() -> None:
    """Each difference that is listed has its test here."""
    assert socketserver.__doc__ is not None
    named = [word for word in socketserver.__doc__.split("`") if word.startswith("test_")]
    assert len(named) == 11
    assert [name for name in named if name not in globals()] == []
