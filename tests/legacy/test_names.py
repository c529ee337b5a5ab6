"""Old programs have names of their own, on servers and on handlers; the facade's are none of them."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from tricorn import socketserver

#: Seen in programs, as attributes, methods or class variables of servers and handlers.
CLAIMED = (
    "address", "addr", "app", "application", "base_url", "board", "call", "clients", "close", "closed", "conn",
    "context", "count", "crew", "daemon", "data", "deadline", "dispatch", "dispatcher", "dispatching", "done",
    "drain", "engine", "events", "funcs", "handler", "handlers", "host", "id", "idle", "instance", "intake", "join",
    "kind", "ledger", "listen", "listener", "lock", "log", "logger", "loop", "name", "options", "parent", "pause",
    "peer", "plan", "pool", "poll", "port", "queue", "report", "resume_at", "run", "running", "selector", "serve",
    "server", "service", "services", "start", "state", "stats", "status", "stop", "stopped", "thread", "threads",
    "transport", "url", "wait", "wake", "wakeup", "workers", "_call", "_closed", "_dispatch", "_is_shut_down",
    "_lock", "_loop", "_running", "_state", "_stop", "_thread", "_watch",
)  # fmt: skip
STEPS = ["get_request", "verify_request", "process_request", "finish_request", "shutdown_request"]
LOOPBACK = ("127.0.0.1", 0)
PATIENCE_S = 20


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.readline())


def ask(server: Any) -> bytes:
    with socket.create_connection(server.server_address, PATIENCE_S) as client:
        client.sendall(b"hello\n")
        return b"".join(iter(lambda: client.recv(100), b""))


def served(server: Any) -> bytes:
    """One exchange with a server that serves for ever, shut down afterwards."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        return ask(server)
    finally:
        server.shutdown()
        thread.join(PATIENCE_S)


class Poison:
    """Not to be called, nor used as anything."""


@pytest.mark.parametrize("base", ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer"])
def test_class_variables_and_attributes_of_any_name(base: str) -> None:
    """A server and a handler on which all these names mean something else work, and the names keep their values."""
    poison = Poison()
    claimed = [name for name in CLAIMED if name != "workers"]  # an option of the pool's
    for where in (claimed[::2], claimed[1::2]):  # some of them on the class, the others on the instance
        server_class: Any = type("Server", (getattr(socketserver, base),), dict.fromkeys(where, poison))
        own = [name for name in where if name != "server"]
        handler_class: Any = type("Handler", (Echo,), dict.fromkeys(own, poison))
        with server_class(LOOPBACK, handler_class) as server:
            for name in set(claimed) - set(where):
                setattr(server, name, poison)
            assert served(server) == b"hello\n"
            assert all(getattr(server, name) is poison for name in claimed)


@pytest.mark.parametrize("base", ["TCPServer", "ThreadingTCPServer", "ThreadPoolTCPServer"])
def test_methods_of_any_name_are_never_called(base: str) -> None:
    """Not even with the right number of arguments."""

    def method(self: Any, *args: Any, **options: Any) -> None:
        raise AssertionError("called")

    namespace = dict.fromkeys([name for name in CLAIMED if name != "workers"], method)
    with type("Server", (getattr(socketserver, base),), namespace)(LOOPBACK, Echo) as server:
        assert served(server) == b"hello\n"


def test_an_attribute_before_the_constructor() -> None:
    """A subclass may touch documented attributes, its own too, before it calls the base's constructor."""

    class Early(socketserver.ThreadingTCPServer):
        def __init__(self, port: int) -> None:
            self.timeout = 3
            self.clients: list[Any] = []
            self.allow_reuse_address = True
            self.daemon_threads = True
            self.request_queue_size = 7
            super().__init__(("127.0.0.1", port), Echo)

    with Early(0) as server:
        assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert served(server) == b"hello\n"


def test_a_constructor_that_is_never_called() -> None:
    """`handle_request`, `server_close` and the flags of a server that built itself."""

    class Bare(socketserver.TCPServer):
        def __init__(self) -> None:
            self.socket = socket.create_server(LOOPBACK)
            self.server_address = self.socket.getsockname()
            self.RequestHandlerClass = Echo

    with Bare() as server:
        assert server.timeout is None
        with socket.create_connection(server.server_address, PATIENCE_S) as client:
            client.sendall(b"hello\n")
            server.handle_request()
            assert client.recv(100) == b"hello\n"
    assert server.fileno() == -1


def test_a_server_that_was_never_built_can_be_closed() -> None:
    """The constructor's own clean-up may meet one without anything but a socket."""
    server = socketserver.TCPServer.__new__(socketserver.TCPServer)
    server.socket = socket.socket()
    server.server_close()
    assert set(vars(server)) <= {"socket", "_tricorn"}


def test_class_variables_set_after_instances_exist() -> None:
    """They count from then on: on the server's class and on the handler's."""

    class Server(socketserver.ThreadingTCPServer):
        pass

    class Handler(Echo):
        pass

    daemons: list[bool] = []

    def verify_request(self: Any, request: Any, client_address: Any) -> bool:
        daemons.append(self.daemon_threads)
        return True

    with Server(LOOPBACK, Handler) as server:
        assert served(server) == b"hello\n"
        Server.daemon_threads = True
        Server.verify_request = verify_request  # type: ignore[method-assign]
        Handler.wbufsize = -1
        assert served(server) == b"hello\n"
        assert daemons == [True]


def test_methods_set_on_the_instance() -> None:
    """Every step is looked up on the instance when it is taken."""
    steps: list[str] = []
    with socketserver.TCPServer(LOOPBACK, Echo) as server:

        def noted(step: str, original: Any) -> Any:
            return lambda *args: (steps.append(step), original(*args))[1]  # type: ignore[func-returns-value]

        for step in STEPS:
            setattr(server, step, noted(step, getattr(server, step)))
        assert served(server) == b"hello\n"
    assert steps == STEPS


def test_a_socket_replaced_while_serving() -> None:
    """The loop takes its requests from the new one."""

    class Server(socketserver.TCPServer):
        def service_actions(self) -> None:
            if later:
                old, self.socket = self.socket, later.pop()
                old.close()
                moved.set()

    moved = threading.Event()
    later = [socket.create_server(LOOPBACK)]
    new_address = later[0].getsockname()
    with Server(LOOPBACK, Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        assert moved.wait(PATIENCE_S)
        with socket.create_connection(new_address, PATIENCE_S) as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
        server.shutdown()
        thread.join(PATIENCE_S)


def test_a_descriptor_of_its_own() -> None:
    """A server whose `fileno` is not its socket's is waited for by that descriptor."""
    bell, rope = socket.socketpair()

    class Belled(socketserver.BaseServer):
        def fileno(self) -> int:
            return bell.fileno()

        def get_request(self) -> tuple[Any, Any]:
            return bell.recv(1), "rope"

    rung: list[tuple[Any, Any]] = []
    with bell, rope, Belled("bell", lambda request, peer, server: rung.append((request, peer))) as server:
        server.timeout = 0
        server.handle_request()
        assert rung == []
        rope.send(b"!")
        server.handle_request()
        assert rung == [(b"!", "rope")]


def test_a_handler_that_is_no_class() -> None:
    """Any callable that takes the three arguments."""
    calls: list[Any] = []
    with socketserver.TCPServer(LOOPBACK, lambda *arguments: calls.append(arguments)) as server:
        assert served(server) == b""
    ((request, address, given),) = calls
    assert isinstance(request, socket.socket)
    assert address[0] == "127.0.0.1"
    assert given is server
