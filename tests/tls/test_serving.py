"""Conversations over TLS, under every dispatcher that runs blocking handlers."""

from __future__ import annotations

import http.client
import http.server
import os
import socket
import ssl
import threading
from typing import Any

import pytest

from tricorn import Deadline, Status
from tricorn.events import JobFinished
from tricorn.handlers import StreamRequestHandler
from tricorn.strategies import Sync, Thread, ThreadPool
from tricorn.tls_socket import TLSSocket
from tricorn.transports import TCP, UnixStream


def echo(connection: Any) -> None:
    while data := connection.recv():
        connection.send(data)


def outcome(recorder: Any, n: int = 1) -> Any:
    return recorder.wait(JobFinished, n)[n - 1].outcome


def receive_all(sock: socket.socket) -> bytes:
    """Until the end, which must be a proper one."""
    pieces = []
    while data := sock.recv(65536):
        pieces.append(data)
    return b"".join(pieces)


class Upper(StreamRequestHandler):
    """The documented kind of handler."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


class Hello(http.server.BaseHTTPRequestHandler):
    """Of the standard library."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[::-1])

    def log_message(self, *args: Any) -> None:
        pass


def test_bytes_go_both_ways(dispatcher: Any, authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """More than any buffer holds; the client sees a proper end."""
    server = serve(authority.tls(), dispatcher, echo)
    client = call(server)
    assert client.version() == "TLSv1.3"
    payload = os.urandom(300_000)
    for start in range(0, len(payload), 30_000):
        client.sendall(payload[start : start + 30_000])
        got = b""
        while len(got) < 30_000:
            got += client.recv(30_000)
        assert got == payload[start : start + 30_000]
    client.suppress_ragged_eofs = False
    client.unwrap()
    assert outcome(recorder).status is Status.COMPLETED


def test_request_handler_classes_work(dispatcher: Any, authority: Any, serve: Any, call: Any) -> None:
    """Through files made by makefile."""
    server = serve(authority.tls(), dispatcher, Upper)
    with call(server).makefile("rwb") as file:
        for word in (b"one\n", b"two\n"):
            file.write(word)
            file.flush()
            assert file.readline() == word.upper()


def test_http_server_handlers_work(dispatcher: Any, authority: Any, serve: Any) -> None:
    """Several requests on one connection, from the standard library's client."""
    server = serve(authority.tls(), dispatcher, Hello)
    client = http.client.HTTPSConnection("localhost", server.address[1], timeout=10, context=authority.client())
    client.sock = authority.client().wrap_socket(
        socket.create_connection(server.address, timeout=10), server_hostname="localhost"
    )
    for body in (b"abc", os.urandom(100_000)):
        client.request("POST", "/", body)
        assert client.getresponse().read() == body[::-1]
    client.close()


def test_over_a_unix_socket(dispatcher: Any, authority: Any, serve: Any, call: Any, tmp_path: Any) -> None:
    """Any transport of connections can be wrapped, and goes when it is closed."""
    path = str(tmp_path / "tls.sock")
    server = serve(authority.tls(UnixStream(path)), dispatcher, echo)
    client = call(server)
    client.sendall(b"ping")
    assert client.recv(10) == b"ping"
    server.drain()
    assert not os.path.exists(path)


def test_an_end_is_proper_even_where_the_handler_leaks_a_file(authority: Any, serve: Any, call: Any) -> None:
    """close_notify and the end are there though an open file keeps the descriptor alive."""
    leaked: list[Any] = []

    def leak(connection: Any) -> None:
        leaked.append(connection.makefile("rb"))
        connection.send(b"all")

    server = serve(authority.tls(), Thread(), leak)
    client = call(server)
    client.suppress_ragged_eofs = False
    assert receive_all(client) == b"all"
    leaked[0].close()


def test_a_handler_that_closes_says_goodbye(authority: Any, serve: Any, call: Any) -> None:
    """Whichever way it closes."""
    ways = [lambda c: c.close(), lambda c: c.socket.close(), lambda c: c.socket.shutdown(socket.SHUT_RDWR)]

    def close(connection: Any) -> None:
        connection.send(b"x")
        ways.pop(0)(connection)

    server = serve(authority.tls(), Sync(), close)
    for _ in range(3):
        client = call(server)
        client.suppress_ragged_eofs = False
        assert receive_all(client) == b"x"


def test_send_eof_ends_the_sending_and_receiving_goes_on(authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """What came before and was not read is not lost, and the socket never falls back to plain text."""
    last: list[bytes] = []

    def half_close(connection: Any) -> None:
        assert connection.recv(4) == b"ques"
        connection.send(b"answer")
        connection.send_eof()
        while data := connection.recv():
            last.append(data)
        with pytest.raises(BrokenPipeError):
            connection.send(b"more")

    server = serve(authority.tls(), Thread(), half_close)
    for number in range(1, 21):
        client = call(server)
        client.sendall(b"question")
        client.sendall(b"s")
        assert receive_all(client) == b"answer"
        client.sendall(b"thanks")
        client.shutdown(socket.SHUT_WR)
        assert outcome(recorder, number).error is None
        assert b"".join(last) == b"tionsthanks"
        last.clear()


def test_a_peer_that_ends_without_close_notify_has_ended(authority: Any, serve: Any, dial: Any, recorder: Any) -> None:
    """And it still gets its answer: a plain shutdown(2) of its sending side is an end of the stream."""

    def answer_at_the_end(connection: Any) -> None:
        data = b""
        while more := connection.recv():
            data += more
        connection.send(data[::-1])

    server = serve(authority.tls(), Thread(), answer_at_the_end)
    plain = dial(server)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = authority.client().wrap_bio(incoming, outgoing, server_hostname="localhost")

    def flush() -> None:
        if data := outgoing.read():
            plain.sendall(data)

    def step(action: Any) -> Any:
        while True:
            try:
                result = action()
            except ssl.SSLWantReadError:
                flush()
                incoming.write(plain.recv(65536))
                continue
            flush()
            return result

    step(client.do_handshake)
    step(lambda: client.write(b"abc"))
    plain.shutdown(socket.SHUT_WR)
    assert step(lambda: client.read(10)) == b"cba"
    assert outcome(recorder).status is Status.COMPLETED


def test_a_peer_that_vanishes_is_no_failure(authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """A reset under a handler that sends is DISCONNECTED, as on a plain connection."""
    gone = threading.Event()

    def talk(connection: Any) -> None:
        connection.send(b"x")
        gone.wait(10)
        for _ in range(1000):
            connection.send(b"y" * 10_000)

    server = serve(authority.tls(), Thread(), talk)
    client = call(server)
    assert client.recv(1) == b"x"
    client.close()
    gone.set()
    assert outcome(recorder).status is Status.DISCONNECTED


def test_a_peer_that_sends_rubbish_later_is_no_failure(authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """What is no record any more ends the conversation as a lost connection."""
    server = serve(authority.tls(), Thread(), echo)
    client = call(server)
    client.sendall(b"a")
    assert client.recv(1) == b"a"
    with socket.socket(fileno=os.dup(client.fileno())) as raw:
        raw.sendall(b"\x17\x03\x03\x00\x20" + b"rubbish!" * 4)
    assert outcome(recorder).status is Status.DISCONNECTED


@pytest.mark.parametrize("make", [Sync, Thread, lambda: ThreadPool(4)], ids=["sync", "thread", "thread-pool"])
def test_a_drain_ends_idle_connections(make: Any, authority: Any, serve: Any, call: Any) -> None:
    """The peer sees a proper end, and nothing had to be cancelled; the reader had an end, not an error."""
    ends: list[bytes] = []

    def note_the_end(connection: Any) -> None:
        while data := connection.recv():
            connection.send(data)
        ends.append(data)

    server = serve(authority.tls(), make(), note_the_end)
    client = call(server)
    client.sendall(b"a")
    assert client.recv(1) == b"a"
    report = server.drain(5)
    client.suppress_ragged_eofs = False
    assert client.recv(1) == b""
    assert report.clean and report.completed == 1 and report.duration < 3
    assert ends == [b""]


def test_a_drain_ends_idle_connections_of_processes(authority: Any, serve: Any, call: Any) -> None:
    """Also where SIGTERM tells them."""
    from tricorn.strategies import Fork, ProcessPool

    for dispatcher in (Fork(), ProcessPool(2)):
        server = serve(authority.tls(), dispatcher, echo)
        client = call(server)
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        report = server.drain(5)
        assert client.recv(1) == b""
        assert report.clean and report.completed == 1


def test_a_request_in_its_middle_is_finished_by_a_drain(authority: Any, serve: Any, call: Any) -> None:
    """A connection that is not idle may go on to the end of its exchange."""
    half, stopping = threading.Event(), threading.Event()

    def two_halves(connection: Any) -> None:
        first = connection.recv(1)
        half.set()
        connection.send(first + connection.recv(1))

    server = serve(authority.tls(), Thread(), two_halves)
    client = call(server)
    client.sendall(b"a")
    assert half.wait(10)
    drain = threading.Thread(target=lambda: (stopping.set(), server.drain(5)))
    drain.start()
    assert stopping.wait(10)
    client.sendall(b"b")
    assert client.recv(10) == b"ab"
    drain.join()


def test_what_the_handler_sees_of_the_encryption(authority: Any, serve: Any, call: Any) -> None:
    """The name that was asked for, the protocol that was agreed on, and a socket that says the rest."""
    seen: list[Any] = []

    def look(connection: Any) -> None:
        sock = connection.socket
        seen.append((connection.server_name, connection.alpn, connection.certificate, type(sock), sock.version()))
        assert connection.tls.minimum_version is ssl.TLSVersion.TLSv1_2
        connection.send(b"x")

    server = serve(authority.tls(alpn=("h2", "http/1.1")), Sync(), look)
    clients = [authority.client(), authority.client(), authority.client(maximum_version=ssl.TLSVersion.TLSv1_2)]
    clients[0].set_alpn_protocols(["http/1.1", "h2"])
    clients[1].set_alpn_protocols(["gopher"])
    clients[2].set_alpn_protocols(["http/1.1"])
    for context, name in zip(clients, ("localhost", "LOCALHOST", "127.0.0.1"), strict=True):
        assert call(server, context, name).recv(1) == b"x"
    assert seen == [
        ("localhost", "h2", None, TLSSocket, "TLSv1.3"),
        ("localhost", None, None, TLSSocket, "TLSv1.3"),
        (None, "http/1.1", None, TLSSocket, "TLSv1.2"),
    ]


def test_a_plain_connection_has_none_of_it(serve: Any, dial: Any) -> None:
    """None, and nothing to ask first."""
    seen: list[Any] = []

    def look(connection: Any) -> None:
        seen.append((connection.server_name, connection.alpn, connection.certificate, connection.tls))
        seen.append(connection.identity)
        connection.send(b"x")

    assert dial(serve(TCP("127.0.0.1", 0), Sync(), look)).recv(1) == b"x"
    assert seen == [(None, None, None, None), None]


def test_a_look_ahead_takes_nothing_away(authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """MSG_PEEK works as on a plain socket, for recv and for files; what was looked at counts as buffered."""

    def peek(connection: Any) -> None:
        sock = connection.socket
        assert sock.recv(3, socket.MSG_PEEK) == b"abc"
        assert connection.buffered() == 6
        assert sock.recv(5, socket.MSG_PEEK) == b"abcde"
        assert sock.recv(9, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"abcdef"
        assert sock.recv(2) == b"ab"
        assert sock.recv(9, socket.MSG_PEEK) == b"cdef"
        connection.send(b"go")
        with connection.makefile("rb") as file:
            connection.send(file.readline())
        with pytest.raises(ssl.SSLWantReadError):
            sock.recv(1, socket.MSG_DONTWAIT)
        connection.open(Deadline.after(0))  # it is

    server = serve(authority.tls(), Sync(), peek)
    client = call(server)
    client.sendall(b"abcdef")
    assert client.recv(2) == b"go"
    client.sendall(b"\n")
    assert client.recv(10) == b"cdef\n"
    assert outcome(recorder).error is None
