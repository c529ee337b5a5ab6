"""Connections through a proxy: who the peer is then, whose word counts, and when patience ends."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from typing import Any

import pytest
import trustme

from tricorn import Server
from tricorn.authentication import PeerCredentials
from tricorn.errors import (
    IncompatibleParts,
)
from tricorn.events import JobFinished, JobRefused, JobStarted, Status
from tricorn.handlers import Lines, message
from tricorn.strategies import Asyncio, Fork, ProcessPool, Selector, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, TLS, ProxyProtocol, UnixStream

HEADER = b"PROXY TCP4 192.0.2.1 198.51.100.7 40000 443\r\n"
CLIENT, REACHED = ("192.0.2.1", 40000), ("198.51.100.7", 443)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
BINARY = (
    SIGNATURE
    + b"\x21\x11"
    + struct.pack("!H", 12 + 14)
    + socket.inet_aton("192.0.2.1")
    + socket.inet_aton("198.51.100.7")
    + struct.pack("!HH", 40000, 443)
    + b"\x02\x00\x0bexample.org"
)
LOCAL = SIGNATURE + b"\x20\x00\0\0"


def tell(connection: Any) -> None:
    """A function: says who is there, and what was sent first."""
    first = connection.recv(100)
    connection.send(repr((connection.peer, connection.local, connection.proxy is not None, first)).encode())


async def tell_later(connection: Any) -> None:
    """The same as a coroutine."""
    first = await connection.recv(100)
    told = (connection.peer, connection.local, connection.proxy is not None, first)
    assert (connection.proxy_header is not None) == (connection.proxy is not None)
    await connection.send(repr(told).encode())


@message(Lines())
def tell_line(line: bytes, peer: Any) -> bytes:
    """The same as a message handler, which sees the peer only."""
    return repr((peer, REACHED, True, line + b"\n")).encode()


WAYS: dict[str, tuple[Callable[[], Any], Any]] = {
    "sync": (Sync, tell),
    "thread": (Thread, tell),
    "thread-pool": (lambda: ThreadPool(4), tell),
    "parking": (lambda: ThreadPool(4, park_idle=True), tell),
    "fork": (Fork, tell),
    "process-pool": (lambda: ProcessPool(2, inner=ThreadPool(2)), tell),
    "selector": (Selector, tell_line),
    "selector-then": (lambda: Selector(then=ThreadPool(2)), tell_line),
    "asyncio": (Asyncio, tell_later),
    "asyncio-messages": (Asyncio, tell_line),
    "uvloop": (lambda: Asyncio(loop="uvloop"), tell_later),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, libuv_is_ready: None) -> tuple[Any, Any]:
    """Every dispatcher, with a handler of a shape that it calls."""
    if request.param == "uvloop" and find_spec("uvloop") is None:
        pytest.skip("the extra 'uvloop' is not installed")
    make, handler = WAYS[request.param]
    return make(), handler


@pytest.fixture
def recorder() -> Recorder:
    """An observer that keeps what it is told."""
    return Recorder()


@pytest.fixture
def serve(recorder: Recorder, nothing_left_behind: None) -> Any:
    """Start a server; it is closed at the end of the test."""
    with ExitStack() as opened:

        def start(transport: Any, dispatcher: Any = None, handler: Any = tell, **options: Any) -> Server:
            server = Server(transport, dispatcher or ThreadPool(4), handler, observers=[recorder], log=False, **options)
            opened.callback(server.close)
            server.start()
            return server

        yield start


@pytest.fixture
def dial(nothing_left_behind: None) -> Any:
    """Connect to a server and send what is given, in pieces; closed at the end of the test."""
    with ExitStack() as opened:

        def connect(server: Server, *pieces: bytes) -> socket.socket:
            family = socket.AF_UNIX if isinstance(server.address, str) else socket.AF_INET
            sock = opened.enter_context(socket.socket(family))
            sock.settimeout(10)
            sock.connect(server.address)
            for piece in pieces:
                sock.sendall(piece)
            return sock

        yield connect


def proxied(inner: Any = None, trusted: Any = "127.0.0.1", **options: Any) -> ProxyProtocol:
    """Around TCP on a free port, unless another transport is given."""
    return ProxyProtocol(inner or TCP("127.0.0.1", 0), trusted=trusted, **options)


def told(sock: socket.socket) -> Any:
    """What the handler said."""
    return eval(sock.recv(1000))


def ended(sock: socket.socket) -> bool:
    """It was closed, with a reset if something that was sent had not been read."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


# -- who the peer is


@pytest.mark.parametrize("header", [HEADER, BINARY], ids=["text", "binary"])
def test_the_peer_is_the_client_that_the_proxy_names(way: Any, header: bytes, serve: Any, dial: Any) -> None:
    """Under every dispatcher; what is sent with the header reaches the handler."""
    server = serve(proxied(), *way)
    assert told(dial(server, header + b"hello\n")) == (CLIENT, REACHED, True, b"hello\n")


def test_a_header_in_pieces(way: Any, serve: Any, dial: Any) -> None:
    """Is put together, whatever arrives when; and the request may come in its own time."""
    server = serve(proxied(), *way)
    client = dial(server)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for place in range(len(BINARY)):
        client.sendall(BINARY[place : place + 1])
    client.sendall(b"hello\n")
    assert told(client) == (CLIENT, REACHED, True, b"hello\n")


def test_a_proxy_that_speaks_for_itself(serve: Any, dial: Any) -> None:
    """LOCAL and UNKNOWN: the peer is the proxy, and there is a header that says so."""
    server = serve(proxied())
    for header in (LOCAL, b"PROXY UNKNOWN\r\n"):
        client = dial(server, header + b"hello")
        assert told(client) == (client.getsockname(), server.address, True, b"hello")


def test_what_the_proxy_says_besides(serve: Any, dial: Any) -> None:
    """Is in `proxy_header`, and the proxy's own address in `proxy`."""

    def handle(connection: Any) -> None:
        header = connection.proxy_header
        connection.send(repr((connection.proxy, header.version, header.authority, header.source)).encode())

    server = serve(proxied(), handler=handle)
    client = dial(server, BINARY)
    assert told(client) == (client.getsockname(), 2, "example.org", CLIENT)


def test_without_a_proxy_there_is_none(serve: Any, dial: Any) -> None:
    """On any other connection."""

    def handle(connection: Any) -> None:
        connection.send(repr((connection.proxy, connection.proxy_header)).encode())

    server = serve(TCP("127.0.0.1", 0), handler=handle)
    assert told(dial(server)) == (None, None)


def test_the_outcome_names_the_client(serve: Any, dial: Any, recorder: Recorder) -> None:
    """What began as the proxy's connection ends as the client's."""
    server = serve(proxied())
    client = dial(server, HEADER + b"hello")
    told(client)
    assert recorder.wait(JobStarted)[0].peer == client.getsockname()
    outcome = recorder.wait(JobFinished)[0].outcome
    assert (outcome.peer, outcome.local, outcome.status) == (CLIENT, REACHED, Status.COMPLETED)


# -- what is refused


def test_a_peer_without_a_header(way: Any, serve: Any, dial: Any, recorder: Recorder) -> None:
    """Is closed, with the reason; the handler hears nothing of it."""
    server = serve(proxied(), *way)
    client = dial(server, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
    assert ended(client)
    outcome = recorder.wait(JobFinished)[0].outcome
    assert outcome.status is Status.REFUSED
    assert "the peer sent no PROXY header; it began with b'GET / HTTP/1.1" in str(outcome.error)


@pytest.mark.parametrize("begins", [b"", b"PROXY TCP4 192.0", BINARY[:20]], ids=["silent", "text", "binary"])
def test_a_header_that_does_not_come(way: Any, begins: bytes, serve: Any, dial: Any, recorder: Recorder) -> None:
    """In time: the connection ends then, and counts as the peer's delay."""
    if getattr(way[0], "park_idle", False) and not begins:
        pytest.skip("a connection on which nothing has come is parked, and occupies no worker")
    server = serve(proxied(timeout=0.05), *way)
    client = dial(server, begins)
    assert client.recv(1) == b""
    outcome = recorder.wait(JobFinished)[0].outcome
    assert outcome.status is Status.TIMED_OUT
    assert "the PROXY header was not complete after 0.05 s" in str(outcome.error)


def test_a_peer_that_leaves(way: Any, serve: Any, dial: Any, recorder: Recorder) -> None:
    """Before its header is complete, as a health check may: nobody's failure."""
    server = serve(proxied(), *way)
    client = dial(server, b"PROXY TCP4")
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    outcome = recorder.wait(JobFinished)[0].outcome
    assert outcome.status is Status.DISCONNECTED
    assert "left before its PROXY header was complete" in str(outcome.error)


def test_a_header_that_drips(serve: Any, dial: Any, recorder: Recorder) -> None:
    """The time is that of the whole header, not from byte to byte."""
    server = serve(proxied(timeout=0.3))
    client = dial(server, b"PROXY")
    client.settimeout(0.02)
    with pytest.raises(ConnectionError):
        while True:
            client.sendall(b" ")
            with suppress(TimeoutError):
                assert client.recv(1) == b""
                raise ConnectionAbortedError
    assert recorder.wait(JobFinished)[0].outcome.status is Status.TIMED_OUT


def test_a_peer_that_is_not_trusted(serve: Any, dial: Any, recorder: Recorder) -> None:
    """Is closed at once, whatever it claims, before a worker has it; the next one is served."""
    server = serve(proxied(TCP("127.0.0.1", 0), trusted=["192.0.2.0/24", "::1", "unix"]))
    client = dial(server, HEADER)
    assert ended(client)
    outcome = recorder.wait(JobRefused)[0].outcome
    assert outcome.peer == client.getsockname()
    assert outcome.detail == "a peer that is not trusted to send a PROXY header"
    assert recorder.of(JobStarted) == []


def test_a_peer_that_is_not_trusted_may_pass(serve: Any, dial: Any) -> None:
    """As what it is: a header of its own is nothing but what it sends."""
    server = serve(proxied(trusted=["192.0.2.1"], untrusted="pass"))
    client = dial(server, HEADER)
    assert told(client) == (client.getsockname(), server.address, False, HEADER)


def test_a_header_may_be_missing(serve: Any, dial: Any, way: Any) -> None:
    """With ``required=False``; what looks like none is the handler's, byte by byte."""
    if way[1] is tell_line:
        pytest.skip("a message handler does not see the proxy")
    server = serve(proxied(required=False), *way)
    client = dial(server, b"PROPFIND / HTTP/1.1\r\n")
    assert told(client) == (client.getsockname(), server.address, False, b"PROPFIND / HTTP/1.1\r\n")
    assert told(dial(server, HEADER + b"hello")) == (CLIENT, REACHED, True, b"hello")


def test_without_a_header_and_without_a_word(serve: Any, dial: Any) -> None:
    """A client that leaves at once is served, and the handler sees the end."""
    server = serve(proxied(required=False))
    client = dial(server)
    client.shutdown(socket.SHUT_WR)
    assert told(client) == (client.getsockname(), server.address, False, b"")


# -- together with others


def test_over_a_unix_socket(serve: Any, dial: Any, tmp_path: Any) -> None:
    """Whoever can connect is trusted by ``"unix"``; the credentials are the proxy's, and no client's."""

    def handle(connection: Any) -> None:
        connection.send(repr((connection.peer, connection.credentials is None)).encode())

    server = serve(proxied(UnixStream(tmp_path / "s"), trusted="unix"), handler=handle)
    assert told(dial(server, HEADER)) == (CLIENT, True)
    assert told(dial(server, LOCAL)) == ("", False)


def test_nobody_is_identified_by_the_proxys_credentials(tmp_path: Any) -> None:
    """Which is found when the server is built."""
    inner = UnixStream(tmp_path / "s")
    Server(inner, Sync(), tell, authenticate=PeerCredentials())
    with pytest.raises(IncompatibleParts, match="credentials, which connections of ProxyProtocol lack"):
        Server(proxied(inner, trusted="unix"), Sync(), tell, authenticate=PeerCredentials())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, str]:
    """An authority, and the file of a certificate with its key."""
    ca, path = trustme.CA(), tmp_path_factory.mktemp("tls") / "server.pem"
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
    return ca, str(path)


@pytest.mark.parametrize("name", [name for name in WAYS if name != "uvloop"])
def test_below_tls(name: str, authority: Any, serve: Any, dial: Any) -> None:
    """The header comes in plain text, then the handshake; the peer is the client all the while."""
    ca, certfile = authority
    make, handler = WAYS[name]
    server = serve(TLS(proxied(), certfile=certfile), make(), handler)
    context = ssl.create_default_context()
    ca.configure_trust(context)
    with context.wrap_socket(dial(server, HEADER), server_hostname="localhost") as client:
        client.sendall(b"hello\n")
        assert told(client) == (CLIENT, REACHED, True, b"hello\n")


@pytest.mark.parametrize("name", ["thread-pool", "selector", "asyncio"])
def test_below_tls_the_header_has_its_own_time(
    name: str, authority: Any, serve: Any, dial: Any, recorder: Recorder
) -> None:
    """And who sends none is told as such, not as somebody who breaks off a handshake."""
    make, handler = WAYS[name]
    server = serve(TLS(proxied(timeout=0.05), certfile=authority[1]), make(), handler)
    assert dial(server).recv(1) == b""
    outcome = recorder.wait(JobFinished)[0].outcome
    assert outcome.status is Status.TIMED_OUT
    assert "PROXY header" in str(outcome.error)


def test_a_drain_ends_who_sends_no_header(way: Any, serve: Any, dial: Any, recorder: Recorder) -> None:
    """Soon, and cleanly."""
    server = serve(proxied(timeout=60.0), *way)
    dial(server)
    recorder.wait(JobStarted)
    report = server.drain(8)
    assert report.clean
    assert report.duration < 6
