"""The order of calls, with arguments, of the original and of the facade: every server class, every override point."""

from __future__ import annotations

import importlib.util
import socket
import socketserver as original
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tricorn import socketserver as facade

SERVERS = sorted(name for name in original.__all__ if name.endswith("Server") and name != "BaseServer")
LINE = "seen: a line\n"
every_server = pytest.mark.parametrize("name", SERVERS)


def reply(handler: Any) -> None:
    handler.wfile.write(b"seen: " + handler.rfile.readline())


def fail(handler: Any) -> None:
    raise RuntimeError("of the handler")


def leave(handler: Any) -> None:
    raise SystemExit(3)


def raising(error: BaseException) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> None:
        raise error

    return method


def play(stage: Any, work: Callable[[Any], None], **overrides: Any) -> Any:
    """One request by `handle_request`; what was noted, what left the loop, and what the client got."""
    server = stage.server(work, **overrides)
    left: Any = None
    with stage.client_of(server) as client:
        try:
            server.handle_request()
        except BaseException as error:
            left = repr(error)
        if "get_request" in overrides:
            return stage.end(server), left, ""
        answered = work is reply and not overrides
        got = stage.received(client) if answered or server.socket_type == socket.SOCK_STREAM else ""
        return stage.end(server), left, got


@every_server
def test_success(both: Any, name: str) -> None:
    """Bind, activate, get, verify, process, finish, shut down, close, in one order, with the same arguments."""
    notes, left, got = both(play, name, reply)
    assert (left, got) == (None, LINE)
    steps = [note[0] for notes in notes.values() for note in notes]
    for step in ("server_bind", "get_request", "verify_request", "process_request", "finish_request", "close_request"):
        assert step in steps


@every_server
def test_verify_false(both: Any, name: str) -> None:
    """A refused request is shut down, and nothing else."""
    notes, _, got = both(play, name, reply, verify_request=lambda self, request, client_address: False)
    assert got == ""
    assert "process_request" not in [note[0] for note in notes["main"]]
    assert "shutdown_request" in [note[0] for note in notes["main"]]


@every_server
@pytest.mark.parametrize("work", [fail, leave])
def test_handler_raises(both: Any, name: str, work: Any) -> None:
    """`handle_error` hears of an `Exception` only; the request is closed after either."""
    notes, left, _ = both(play, name, work)
    here = notes.get("thread") or notes.get("child") or notes["main"]
    assert (["RuntimeError('of the handler')"] in here) is (work is fail)
    assert left == ("SystemExit(3)" if here is notes["main"] and work is leave else None)


@every_server
@pytest.mark.parametrize("error", [OSError("no"), SystemExit(4)], ids=["error", "exit"])
@pytest.mark.parametrize("point", ["process_request", "finish_request", "get_request"])
def test_override_raises(both: Any, name: str, point: str, error: BaseException) -> None:
    """What an overridden step raises goes the same way, through the same calls."""
    both(play, name, fail, **{point: raising(error)})


def play_setup_raises(stage: Any) -> Any:
    class Handler(stage.handler_base):  # type: ignore[misc, name-defined]
        def setup(self) -> None:
            stage.book.note("setup")
            raise RuntimeError("of setup")

        def finish(self) -> None:
            stage.book.note("finish")

    server = stage.server_class()(stage.address, Handler)
    with stage.client_of(server):
        server.handle_request()
        return stage.end(server)


@every_server
def test_setup_raises(both: Any, name: str) -> None:
    """`finish` is not called then."""
    notes = both(play_setup_raises, name)
    assert [["finish"] in each for each in notes.values()] == [False] * len(notes)


def play_timeout(stage: Any, timeout: Any, of_socket: Any) -> Any:
    overrides = {} if "Forking" in stage.name else {"handle_timeout": lambda self: stage.book.note("timeout") or "late"}
    server = stage.server(reply, timeout=timeout, **overrides)
    server.socket.settimeout(of_socket)
    result = server.handle_request()
    return stage.end(server), result


@every_server
@pytest.mark.parametrize("limits", [(0, None), (0.01, None), (None, 0.01), (300, 0.01), (0.01, 300), (-1, None)])
def test_handle_request_times_out(both: Any, name: str, limits: tuple[Any, Any]) -> None:
    """After the smaller of the two timeouts comes `handle_timeout`, and what it returns is the result."""
    _, result = both(play_timeout, name, *limits)
    assert result == (None if "Forking" in name else "late")


@every_server
def test_a_timeout_of_zero_takes_what_is_there(both: Any, name: str) -> None:
    """Programs with loops of their own poll like that."""
    notes, _, _ = both(play, name, fail, timeout=0)
    assert ["get_request", [], []] in notes["main"]


def play_forever(stage: Any) -> Any:
    """Two requests by `serve_forever`, ended by the private flag from inside, as programs do; then all of it again."""

    class Server(stage.server_class()):  # type: ignore[misc]
        left = 0

        def service_actions(self) -> None:
            super().service_actions()
            self._BaseServer__shutdown_request = self.left == 0

        def get_request(self) -> Any:
            self.left -= 1
            return super().get_request()

    server = Server(stage.address, stage.handler(reply))
    got = []
    for _ in range(2):
        server.left = 2
        with stage.client_of(server) as one, stage.client_of(server) as other:
            server.serve_forever(poll_interval=0.01)
            got += [stage.received(one), stage.received(other)]
        assert server._BaseServer__is_shut_down.is_set()
        assert server._BaseServer__shutdown_request is False
    return by_chance(stage.end(server)), got


def by_chance(notes: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Several threads or children wrote in any order."""
    return {role: each if role == "main" else sorted(each, key=str) for role, each in notes.items()}


@every_server
def test_serve_forever(both: Any, name: str) -> None:
    """The flag that ends it is reset, `service_actions` follows each request, and it can be called again."""
    notes, got = both(play_forever, name)
    assert got == [LINE] * 4
    steps = [note[0] for note in notes["main"]]
    assert steps.count("get_request") == steps.count("service_actions") == 4


def play_shutdown(stage: Any) -> Any:
    server = stage.server(reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    with stage.client_of(server) as client:
        thread.start()
        got = stage.received(client)
        server.shutdown()
        thread.join()
        notes = stage.end(server)
        return {role: sorted(each, key=str) for role, each in notes.items()}, got


@pytest.mark.parametrize("name", [name for name in SERVERS if "Forking" not in name])
def test_serve_forever_in_a_thread(both: Any, name: str) -> None:
    """As documented: serve in a thread, shut down from another."""
    assert both(play_shutdown, name)[1] == LINE


def play_constructor(stage: Any, point: str) -> Any:
    server_class = stage.server_class(**{point: raising(OSError("refused"))})
    with pytest.raises(OSError, match="refused"):
        server_class(stage.address, stage.handler_base)
    unbound = server_class(stage.address, stage.handler_base, bind_and_activate=False)
    address, listening = unbound.server_address, unbound.fileno() >= 0
    return stage.end(unbound), address, listening, unbound.fileno()


@every_server
@pytest.mark.parametrize("point", ["server_bind", "server_activate"])
def test_constructor_fails(both: Any, name: str, point: str) -> None:
    """Then `server_close` is called, on a server whose constructor never returned; it may also be left unbound."""
    notes, _, listening, number = both(play_constructor, name, point)
    assert (listening, number) == (True, -1)
    assert [note[0] for note in notes["main"]].count("server_close") == 2


def play_taken(stage: Any) -> Any:
    server_class = stage.server_class()
    with server_class(stage.address, stage.handler_base) as server, pytest.raises(OSError, match="in use") as raised:
        server_class(server.server_address, stage.handler_base)
    return stage.end(server), raised.value.errno


@every_server
def test_address_taken(both: Any, name: str) -> None:
    """The kernel's error leaves the constructor, the socket closed; a `with` block closes the server."""
    both(play_taken, name)


# -- mixtures


def http_server_on(module: ModuleType) -> Any:
    """A copy of the interpreter's `http.server` that stands on ``module``."""
    spec = importlib.util.find_spec("http.server")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "socketserver", module)
        spec.loader.exec_module(made)
    return made


ORDERS: dict[str, Callable[..., tuple[type, ...]]] = {
    "noting first": lambda noting, mix_in, base: (noting, mix_in, base),
    "noting between": lambda noting, mix_in, base: (mix_in, noting, base),
    "without noting": lambda noting, mix_in, base: (mix_in, base),
    "the wrong way round": lambda noting, mix_in, base: (base, mix_in),
}


def play_mixture(stage: Any, order: str) -> Any:
    http = http_server_on(stage.module)
    bases = ORDERS[order](noting_mix_in(stage), getattr(stage.module, stage.name), http.HTTPServer)

    def server_bind(self: Any) -> None:
        stage.module.TCPServer.server_bind(self)  # not http.server's, which looks names up
        self.server_name, self.server_port = self.server_address

    class Handler(http.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stage.book.note("do_GET", self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            stage.book.note("log")

    server_class: Any = type("Server", bases, {"server_bind": server_bind})
    with server_class(("127.0.0.1", 0), Handler) as server, socket.create_connection(server.server_address) as client:
        client.sendall(b"GET /x HTTP/1.0\r\n\r\n")
        server.handle_request()
        with client.makefile("rb") as file:
            got = file.readline().decode()
    return stage.end(server), got, [each.__name__ for each in server_class.__mro__]


def noting_mix_in(stage: Any) -> Any:
    """Somebody's mix-in, which calls the next in line where there is one."""
    mix_in = stage.noting_layer()
    if stage.name == "ThreadingMixIn":
        del mix_in.collect_children
    else:
        del mix_in.process_request_thread
    return mix_in


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["ThreadingMixIn", "ForkingMixIn"])
def test_mixtures(both: Any, name: str, order: str) -> None:
    """Mix-ins in front of each other, over `http.server`'s class; the wrong way round nothing is mixed in."""
    notes, got, _ = both(play_mixture, name, order)
    assert got == "HTTP/1.0 204 No Content\r\n"
    assert (["do_GET", "/x"] in notes.get("main", ())) is (order == "the wrong way round")


def test_the_report_of_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    """`handle_error` prints the same lines to standard error."""

    def report(module: Any) -> list[str]:
        server = module.BaseServer("here", None)
        try:
            raise RuntimeError("of the handler")
        except RuntimeError:
            server.handle_error(None, ("127.0.0.1", 5))
        return capfd.readouterr().err.splitlines()

    ours, theirs = report(facade), report(original)
    assert ours == theirs
    assert ours[1] == "Exception occurred during processing of request from ('127.0.0.1', 5)"
