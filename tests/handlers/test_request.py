"""The documented request-handler classes by themselves, beside the standard library's."""

from __future__ import annotations

import contextlib
import io
import socket
import socketserver
import threading
from typing import Any

import pytest

import tricorn.handlers
from tricorn.contracts import Kind
from tricorn.handlers import BaseRequestHandler, DatagramRequestHandler, StreamRequestHandler
from tricorn.kinds import Traits

PEER = ("192.0.2.1", 4711)
STREAM_BASES = [socketserver.StreamRequestHandler, StreamRequestHandler]
DATAGRAM_BASES = [socketserver.DatagramRequestHandler, DatagramRequestHandler]
ALL_BASES = [socketserver.BaseRequestHandler, BaseRequestHandler, *STREAM_BASES]


def name(base: type) -> str:
    return f"{base.__module__}.{base.__qualname__}"


def drive(handler: Any, sent: bytes, server: object = None) -> bytes:
    """Everything that a client gets which sends ``sent`` and then the end."""
    ours, theirs = socket.socketpair()
    got: list[bytes] = []
    with ours, theirs:
        client = threading.Thread(target=lambda: got.append(exchange(theirs, sent)))
        client.start()
        try:
            handler(ours, PEER, server)
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            client.join()
    return got[0]


def exchange(sock: socket.socket, sent: bytes) -> bytes:
    """Send and receive at the same time, since either side may have to wait for the other."""
    got = bytearray()
    reader = threading.Thread(target=lambda: got.extend(b"".join(iter(lambda: sock.recv(65536), b""))))
    reader.start()
    with contextlib.suppress(BrokenPipeError):
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
    reader.join()
    return bytes(got)


class Packets:
    """A datagram socket that keeps what is sent by it."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, object]] = []

    def sendto(self, data: bytes, address: object) -> int:
        if address is None:
            raise TypeError("sendto(): AF_UNIX address must be a path, not None")
        self.sent.append((bytes(data), address))
        return len(data)


def tracing(base: Any, *, fail_in: str = "") -> tuple[Any, list[str]]:
    """A subclass that writes down which of its methods ran, and one of them may raise."""
    calls: list[str] = []

    def step(stage: str) -> Any:
        def method(self: Any) -> None:
            calls.append(stage)
            if stage == fail_in == "setup":
                raise ZeroDivisionError(stage)
            getattr(base, stage)(self)
            if stage == fail_in:
                raise ZeroDivisionError(stage)

        return method

    return type("Tracing", (base,), {stage: step(stage) for stage in ("setup", "handle", "finish")}), calls


@pytest.mark.parametrize("base", ALL_BASES, ids=name)
@pytest.mark.parametrize(
    ("fail_in", "expected"),
    [
        ("", ["setup", "handle", "finish"]),
        ("setup", ["setup"]),
        ("handle", ["setup", "handle", "finish"]),
        ("finish", ["setup", "handle", "finish"]),
    ],
)
def test_order_of_steps(base: Any, fail_in: str, expected: list[str]) -> None:
    """The steps run in order inside the constructor, and finish follows a handle that raised but not a setup."""
    handler, calls = tracing(base, fail_in=fail_in)
    if fail_in:
        with pytest.raises(ZeroDivisionError, match=fail_in):
            drive(handler, b"")
    else:
        drive(handler, b"")
    assert calls == expected


@pytest.mark.parametrize("base", ALL_BASES, ids=name)
def test_attributes(base: Any) -> None:
    """Request, client address and server are there before setup runs."""
    seen: list[Any] = []

    class Handler(base):  # type: ignore[misc]
        def setup(self) -> None:
            seen.extend([self.request.fileno() >= 0, self.client_address, self.server])
            super().setup()

    server = object()
    drive(Handler, b"", server)
    assert seen == [True, PEER, server]


@pytest.mark.parametrize("base", STREAM_BASES, ids=name)
@pytest.mark.parametrize("rbufsize", [-1, 0, 16])
@pytest.mark.parametrize("wbufsize", [0, -1, 16])
@pytest.mark.parametrize("payload", [b"", b"one line\n", b"a\nb\nc", bytes(range(256)) * 300], ids=len)
def test_same_bytes_out(base: Any, rbufsize: int, wbufsize: int, payload: bytes) -> None:
    """Whatever the buffer sizes, a line-by-line handler sends the same bytes with either library."""

    class Handler(base):  # type: ignore[misc]
        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(line.upper())

    Handler.rbufsize, Handler.wbufsize = rbufsize, wbufsize
    assert drive(Handler, payload) == payload.upper()


@pytest.mark.parametrize("base", STREAM_BASES, ids=name)
def test_unbuffered_writer(base: Any) -> None:
    """The unbuffered writer is a BufferedIOBase whose write sends all and returns the byte count of any buffer."""
    facts: list[Any] = []

    class Handler(base):  # type: ignore[misc]
        def handle(self) -> None:
            writer = self.wfile
            facts.append((isinstance(writer, io.BufferedIOBase), writer.writable(), writer.readable()))
            facts.append(writer.fileno() == self.connection.fileno())
            facts.append([writer.write(memoryview(b"12345678").cast("i")), writer.write(bytearray(b"abc"))])
            writer.write(b"x" * 1_000_000)

    assert drive(Handler, b"") == b"12345678abc" + b"x" * 1_000_000
    assert facts == [(True, True, False), True, [8, 3]]


@pytest.mark.parametrize("base", STREAM_BASES, ids=name)
def test_timeout(base: Any) -> None:
    """The timeout is the socket's, so a silent peer raises TimeoutError in the reading call."""

    class Handler(base):  # type: ignore[misc]
        timeout = 0.01

        def handle(self) -> None:
            self.rfile.read(1)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(TimeoutError):
            Handler(ours, PEER, None)
        assert ours.gettimeout() == 0.01


@pytest.mark.parametrize("base", STREAM_BASES, ids=name)
def test_disable_nagle_algorithm(base: Any) -> None:
    """The option is set on the connected TCP socket."""

    class Handler(base):  # type: ignore[misc]
        disable_nagle_algorithm = True

    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as ours,
    ):
        assert not ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        Handler(ours, PEER, None)
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("base", STREAM_BASES, ids=name)
def test_finish_closes_the_files_and_not_the_socket(base: Any) -> None:
    """After the constructor both files are closed, buffered bytes are sent, and the socket is open."""

    class Handler(base):  # type: ignore[misc]
        wbufsize = -1

        def handle(self) -> None:
            self.wfile.write(b"late")

    ours, theirs = socket.socketpair()
    with ours, theirs:
        handler = Handler(ours, PEER, None)
        assert (handler.rfile.closed, handler.wfile.closed) == (True, True)
        assert theirs.recv(10) == b"late"
        assert ours.fileno() >= 0


@pytest.mark.parametrize("base", STREAM_BASES, ids=name)
def test_finish_after_the_handler_closed_the_writer(base: Any) -> None:
    """A handler may close the writer itself."""

    class Handler(base):  # type: ignore[misc]
        def handle(self) -> None:
            self.wfile.write(b"all")
            self.wfile.close()

    assert drive(Handler, b"") == b"all"


@pytest.mark.parametrize("wbufsize", [0, 4096])
def test_finish_when_the_peer_is_gone(wbufsize: int) -> None:
    """Bytes that nobody is there to take are no error, and the files are closed all the same."""

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            if wbufsize:
                self.wfile.write(b"lost")

    Handler.wbufsize = wbufsize
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        handler = Handler(ours, PEER, None)
        assert (handler.rfile.closed, handler.wfile.closed) == (True, True)
    assert ours.fileno() == -1


@pytest.mark.parametrize("base", DATAGRAM_BASES, ids=name)
@pytest.mark.parametrize("packet", [b"ping", b"\0" * 1000])
def test_datagram_reply(base: Any, packet: bytes) -> None:
    """What was written goes out in one packet, after handle."""

    class Handler(base):  # type: ignore[misc]
        def handle(self) -> None:
            assert self.packet == packet
            assert self.socket.sent == []
            self.wfile.write(b"<")
            self.wfile.write(self.rfile.read())

    packets = Packets()
    Handler((packet, packets), PEER, None)
    assert packets.sent == [(b"<" + packet, PEER)]


def test_datagram_reply_after_an_error() -> None:
    """What was written before handle raised is sent, as with the standard library."""

    class Handler(DatagramRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"so far")
            raise ZeroDivisionError

    packets = Packets()
    with pytest.raises(ZeroDivisionError):
        Handler((b"", packets), PEER, None)
    assert packets.sent == [(b"so far", PEER)]


def test_datagram_without_a_reply() -> None:
    """Nothing written means nothing sent, unlike in the standard library; an attribute brings the empty packet back."""

    class Always(DatagramRequestHandler):
        _tricorn = Traits(kinds=frozenset({Kind.DATAGRAM}), always_replies=True)

    for handler, expected in (
        (socketserver.DatagramRequestHandler, [(b"", PEER)]),
        (DatagramRequestHandler, []),
        (Always, [(b"", PEER)]),
    ):
        packets = Packets()
        handler((b"x", packets), PEER, None)  # type: ignore[arg-type]
        assert packets.sent == expected


def test_datagram_from_a_nameless_sender() -> None:
    """A reply to a Unix socket without a name is dropped without an error."""

    class Handler(DatagramRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"anyone?")

    packets = Packets()
    Handler((b"x", packets), None, None)
    assert packets.sent == []


def test_lazy_package() -> None:
    """The package names its parts, finds them on demand, and says which name it does not have."""
    assert {"BaseRequestHandler", "StreamRequestHandler", "DatagramRequestHandler"} <= set(dir(tricorn.handlers))
    assert tricorn.handlers.StreamRequestHandler is StreamRequestHandler
    with pytest.raises(AttributeError, match="Nonsense"):
        tricorn.handlers.Nonsense  # noqa: B018
