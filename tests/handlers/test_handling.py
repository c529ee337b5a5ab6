"""Telling the shapes of handlers apart, and adapting them to requests."""

from __future__ import annotations

import asyncio
import http.server
import inspect
import json
import socket
import socketserver
import sys
import types
from functools import partial
from typing import Any
from unittest import mock

import pytest

import tricorn.handlers.echo
from tricorn import handlers
from tricorn.connection import Connection
from tricorn.contracts import Item, Kind, Shape
from tricorn.datagram import Datagram
from tricorn.errors import ConfigurationError, StateError
from tricorn.handling import ServerView, adapt, kinds_of, name_of, shape_of
from tricorn.peer_socket import PeerSocket

PEER = ("127.0.0.1", 4711)
EVERYTHING = frozenset(Kind)


class Documented:
    """A request-handler class that derives from nothing."""

    made: list[tuple[Any, Any, Any]]

    def __init__(self, request: Any, client_address: Any, server: Any) -> None:
        self.made.append((request, client_address, server))


class Keyed(Documented):
    def __init__(self, *args: Any, color: str = "", **options: Any) -> None:
        super().__init__(*args, **options)


def function(request: Any) -> None: ...


anything: Any = function


async def coroutine(request: Any) -> None: ...


def generator(request: Any) -> Any:
    yield request


async def async_generator(request: Any) -> Any:
    yield request


class Callable_:
    def __call__(self, request: Any) -> None: ...

    async def method(self, request: Any) -> None: ...


class AsyncCallable:
    async def __call__(self, request: Any) -> None: ...


class MessageLike:
    __tricorn_message__ = True

    def __call__(self, request: Any) -> str:
        return f"served {request}"


class Row(Item):
    def __init__(self, value: object) -> None:
        self.value = value

    def ack(self) -> None: ...

    def nack(self, delay: float = 0.0) -> None: ...


class FakeServer:
    """What a view needs of a server."""

    def __init__(self, *addresses: object) -> None:
        self.addresses = addresses
        self.stops = 0

    def request_stop(self) -> None:
        self.stops += 1


class FakeSocket:
    """The shared socket of datagrams."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.controlled: list[tuple[Any, ...]] = []

    def sendto(self, *args: Any) -> int:
        self.sent.append(args)
        return len(args[0])

    def sendmsg(self, parts: Any, control: Any, flags: int, address: Any) -> int:
        data = b"".join(parts)
        self.controlled.append((data, control, address))
        return len(data)

    def getsockname(self) -> str:
        return "the real one"


@pytest.fixture
def made() -> list[tuple[Any, Any, Any]]:
    """What Documented was constructed with."""
    Documented.made = []
    return Documented.made


@pytest.mark.parametrize(
    ("handler", "shape"),
    [
        (Documented, Shape.CLASS),
        (partial(Keyed, color="red"), Shape.CLASS),
        (partial(partial(partial(Keyed, color="red")), x=1), Shape.CLASS),
        (MessageLike, Shape.CLASS),
        (function, Shape.FUNCTION),
        (lambda request: None, Shape.FUNCTION),
        (partial(function), Shape.FUNCTION),
        (Callable_(), Shape.FUNCTION),
        (print, Shape.FUNCTION),
        (mock.Mock(), Shape.FUNCTION),
        (coroutine, Shape.COROUTINE),
        (partial(coroutine), Shape.COROUTINE),
        (AsyncCallable(), Shape.COROUTINE),
        (partial(AsyncCallable()), Shape.COROUTINE),
        (Callable_().method, Shape.COROUTINE),
        (mock.AsyncMock(), Shape.COROUTINE),
        (MessageLike(), Shape.MESSAGE),
    ],
)
def test_shape_of(handler: Any, shape: Shape) -> None:
    """Each handler has the shape that its own kind says, however often it is wrapped."""
    assert shape_of(handler) is shape


@pytest.mark.parametrize(
    ("handler", "complaint"),
    [
        (42, "a int cannot be called"),
        (None, "a NoneType cannot be called"),
        (tricorn.handlers.echo, "it is a module; did you mean its 'echo'"),
        (types.ModuleType("tools"), "it is a module"),
        (generator, "it is a generator"),
        (async_generator, "it is a generator"),
    ],
)
def test_no_handler_at_all(handler: Any, complaint: str) -> None:
    """What cannot be called, or would not run when called, is refused by name."""
    for look in (shape_of, lambda it: adapt(it, None)):
        with pytest.raises(ConfigurationError, match=complaint):
            look(handler)


@pytest.mark.parametrize(
    ("handler", "complaint"),
    [
        (lambda: None, r"\(\) cannot be a handler: too many positional"),
        (lambda a, b: None, r"\(a, b\) cannot be a handler: missing a required argument: 'b'.*\(request\)"),
        (partial(function, 1), r"function\(\).* cannot be a handler: too many"),
        (partial(anything, 1, 2), r"function cannot be a handler: partial object .* incorrect arguments"),
        (object, r"too many positional|object"),
        (type("Short", (), {"__init__": lambda self, request: None}), r"\(request, client_address, server\)"),
        (type("NoRequest", (), {"__tricorn_message__": 1})(), "cannot be called"),
        (type("Nullary", (), {"__call__": lambda self: None})(), "too many positional"),
    ],
)
def test_wrong_arguments(handler: Any, complaint: str) -> None:
    """A handler that does not take what it is called with is refused with its signature and what is expected."""
    with pytest.raises(ConfigurationError, match=complaint):
        adapt(handler, None)


@pytest.mark.parametrize(
    "handler", [print, dict, min, partial(min), mock.Mock(), partial(Keyed, color="red"), coroutine]
)
def test_right_arguments(handler: Any) -> None:
    """What takes the arguments, or does not tell what it takes, is let through."""
    assert callable(adapt(handler, None))


@pytest.mark.parametrize(
    ("handler", "kinds"),
    [
        (handlers.BaseRequestHandler, EVERYTHING),
        (handlers.StreamRequestHandler, {Kind.STREAM}),
        (handlers.DatagramRequestHandler, {Kind.DATAGRAM}),
        (type("Sub", (handlers.StreamRequestHandler,), {}), {Kind.STREAM}),
        (type("Own", (handlers.StreamRequestHandler,), {"tricorn_kinds": [Kind.ITEM]}), {Kind.ITEM}),
        (socketserver.BaseRequestHandler, EVERYTHING),
        (socketserver.StreamRequestHandler, {Kind.STREAM}),
        (socketserver.DatagramRequestHandler, {Kind.DATAGRAM}),
        (partial(http.server.SimpleHTTPRequestHandler, directory="."), {Kind.STREAM}),
        (Documented, EVERYTHING),
        (function, EVERYTHING),
        (mock.Mock(), EVERYTHING),
    ],
)
def test_kinds_of(handler: Any, kinds: set[Kind]) -> None:
    """A handler serves what it publishes, else what its standard library base serves, else everything."""
    assert kinds_of(handler) == kinds


def test_kinds_of_without_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's module is looked up where it is, and not imported for the purpose."""
    monkeypatch.delitem(sys.modules, "socketserver")
    assert kinds_of(socketserver.StreamRequestHandler) == EVERYTHING
    assert "socketserver" not in sys.modules


def test_class_on_a_stream(made: list[Any]) -> None:
    """A class gets the connection's socket as it is at that moment, the peer, and the server."""
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(PeerSocket(fileno=ours.detach()), PEER)
        serve = adapt(partial(Keyed, color="red"), "server")
        connection.rehouse(socket.socket)
        assert serve(connection) is None
        assert made == [(connection.socket, PEER, "server")]
        connection.close()


def test_class_on_an_item(made: list[Any]) -> None:
    """A class gets an item's value."""
    row = Row({"id": 1})
    adapt(Documented, "server")(row)
    assert made == [({"id": 1}, None, "server")]


def test_class_on_a_datagram(made: list[Any]) -> None:
    """A class gets the data and the shared socket itself where nothing speaks against it."""
    shared = FakeSocket()
    adapt(Documented, "server")(Datagram(b"data", PEER, shared))
    ((data, got), peer, server) = made[0]
    assert (data, got, peer, server) == (b"data", shared, PEER, "server")


def test_replies_leave_from_the_right_address(made: list[Any]) -> None:
    """Where the datagram knows its way back, sendto to its own peer takes it, and all else is the shared socket."""
    shared, way_back = FakeSocket(), ((0, 8, b"from there"),)
    adapt(Documented, None)(Datagram(b"data", PEER, shared, control=way_back))
    sock = made[0][0][1]
    elsewhere = ("127.0.0.9", 9)
    assert (sock.sendto(b"one", PEER), sock.sendto(b"four", 0, PEER), sock.sendto(b"other", elsewhere)) == (3, 4, 5)
    sock.sendto(b"flagged", 64, PEER)
    assert shared.controlled == [(b"one", way_back, PEER), (b"four", way_back, PEER)]
    assert shared.sent == [(b"other", elsewhere), (b"flagged", 64, PEER)]
    assert sock.getsockname() == "the real one"


@pytest.mark.parametrize("base", [handlers.DatagramRequestHandler, socketserver.DatagramRequestHandler])
def test_reply_to_a_nameless_sender(base: Any) -> None:
    """A reply to a sender without a name goes nowhere and is no error, with either library's class."""
    shared = FakeSocket()
    handler = type("Handler", (base,), {"handle": lambda self: self.wfile.write(b"anyone?")})
    adapt(handler, None)(Datagram(b"", None, shared))
    assert shared.sent == []


def test_function_gets_the_request() -> None:
    """A function is called with the request, and what it returns is dropped."""
    got: list[Any] = []

    def handler(request: Any) -> str:
        got.append(request)
        return "dropped"

    row = Row(1)
    assert adapt(handler, None)(row) is None
    assert got == [row]


def test_message_seam() -> None:
    """A message handler comes back as it is: it can be called, and a loop asks it for a conversation."""
    handler = MessageLike()
    assert adapt(handler, None) is handler


def test_coroutine_function_is_left_to_the_loop() -> None:
    """A coroutine function comes back as it is, so that a loop can await what it returns."""
    assert adapt(coroutine, None) is coroutine
    with pytest.raises(ConfigurationError, match="coroutine function is called with"):
        adapt(partial(coroutine, 1), None)


def test_returned_coroutine() -> None:
    """A plain function that returns a coroutine is told its mistake, and the coroutine is closed."""
    made: list[Any] = []

    def handler(request: Any) -> Any:
        made.append(coroutine(request))
        return made[0]

    with pytest.raises(ConfigurationError, match=r"handler returned coroutine 'coroutine'.*async def"):
        adapt(handler, None)(Row(1))
    assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED


def test_returned_awaitable() -> None:
    """So is one that returns another awaitable, or an asynchronous generator."""
    loop = asyncio.new_event_loop()
    try:
        for result in (loop.create_future(), async_generator(None)):
            with pytest.raises(ConfigurationError, match=type(result).__name__):
                adapt(lambda request, result=result: result, None)(Row(1))
    finally:
        loop.close()


def test_name_of() -> None:
    """Names are dotted where there is one, also of what a partial wraps."""
    assert name_of(partial(json.dumps, indent=1)) == "json.dumps"
    assert name_of(print) == "builtins.print"
    assert name_of(42) == "42"


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ([("127.0.0.1", 80), ("::1", 80, 0, 0)], (("127.0.0.1", 80), "127.0.0.1", 80)),
        ([("::1", 8080, 0, 0)], (("::1", 8080, 0, 0), "::1", 8080)),
        (["/run/x"], ("/run/x", "localhost", 0)),
    ],
)
def test_view_addresses(addresses: list[Any], expected: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The view shows the first address and what follows from it, without asking any name service."""
    for lookup in ("getfqdn", "getaddrinfo", "gethostbyaddr", "gethostbyname"):
        monkeypatch.setattr(socket, lookup, None)
    view = ServerView(FakeServer(*addresses), Documented)
    assert (view.server_address, view.server_name, view.server_port) == expected


def test_view_before_the_server_is_bound() -> None:
    """Asking for the address too early is the server's error."""

    class Unbound:
        @property
        def addresses(self) -> tuple[object, ...]:
            raise StateError("not yet")

        def request_stop(self) -> None: ...

    view = ServerView(Unbound(), Documented)
    with pytest.raises(StateError, match="not yet"):
        view.server_port  # noqa: B018


def test_view_state() -> None:
    """A view holds whatever its users put there, and lets them override what it computes."""
    server = FakeServer(("127.0.0.1", 80))
    view: Any = ServerView(server, Documented)
    view.database = "db"
    view.server_name = "www.example.org"
    assert (view.database, view.server_name, view.server_port) == ("db", "www.example.org", 80)
    assert (view.tricorn, view.RequestHandlerClass) == (server, Documented)
    assert "first address" in (ServerView.server_address.__doc__ or "")
    with pytest.raises(AttributeError):
        view.nonsense  # noqa: B018


def test_view_shutdown() -> None:
    """Shutting down is asking the server to stop, as often as one likes."""
    server = FakeServer()
    view = ServerView(server, Documented)
    view.shutdown()
    view.shutdown()
    assert server.stops == 2
