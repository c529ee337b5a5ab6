"""The standard library's handlers, adapted: what was written for socketserver runs unchanged."""

from __future__ import annotations

import http.client
import http.server
import io
import socket
import socketserver
import threading
import xmlrpc.client
import xmlrpc.server
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tricorn.connection import Connection
from tricorn.handlers import StreamRequestHandler
from tricorn.handling import ServerView, adapt
from tricorn.peer_socket import PeerSocket


class FakeServer:
    addresses = (("127.0.0.1", 8000),)

    def request_stop(self) -> None: ...


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


class Answer(io.BytesIO):
    """A received answer, in the place of a socket."""

    def makefile(self, *args: Any) -> Answer:
        return self


def converse(call: Any, sent: bytes) -> bytes:
    """Serve one connection whose client sends ``sent`` and the end; what it gets back."""
    ours, theirs = socket.socketpair()
    connection = Connection(PeerSocket(fileno=ours.detach()), ("127.0.0.1", 4711))

    def serve() -> None:
        call(connection)
        connection.finish(None)

    with theirs:
        server = threading.Thread(target=serve)
        server.start()
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: theirs.recv(65536), b""))
        server.join()
    return got


def parse(answer: bytes, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    response = http.client.HTTPResponse(Answer(answer), method=method)  # type: ignore[arg-type]
    response.begin()
    return response, response.read()


def adapted(handler: Any) -> Any:
    return adapt(handler, ServerView(FakeServer(), handler))


def test_files(tmp_path: Path) -> None:
    """A file server given a directory by partial sends the file, and 404 for one that is not there."""
    (tmp_path / "page.txt").write_bytes(b"content\n" * 20_000)
    call = adapted(partial(QuietFiles, directory=str(tmp_path)))
    response, body = parse(converse(call, b"GET /page.txt HTTP/1.0\r\n\r\n"))
    assert (response.status, body) == (200, b"content\n" * 20_000)
    assert parse(converse(call, b"GET /none HTTP/1.0\r\n\r\n"))[0].status == 404


def test_keep_alive(tmp_path: Path) -> None:
    """Two requests on one connection get two answers."""
    (tmp_path / "a").write_bytes(b"A")
    handler = type("KeepAlive", (QuietFiles,), {"protocol_version": "HTTP/1.1"})
    request = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = converse(adapted(partial(handler, directory=str(tmp_path))), request * 2)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2


def test_state_on_the_server() -> None:
    """A handler sees and changes what was put on its server, and the documented names."""

    class Counter(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server: Any = self.server
            server.hits += 1
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"{server.hits} {server.server_name}:{server.server_port}".encode())

        def log_message(self, format: str, *args: Any) -> None: ...

    view: Any = ServerView(FakeServer(), Counter)
    view.hits = 0
    call = adapt(Counter, view)
    bodies = [parse(converse(call, b"GET / HTTP/1.0\r\n\r\n"))[1] for _ in range(2)]
    assert bodies == [b"1 127.0.0.1:8000", b"2 127.0.0.1:8000"]


def test_xmlrpc() -> None:
    """The standard library's XML-RPC handler works with a dispatcher's methods put on the server."""
    view: Any = ServerView(FakeServer(), xmlrpc.server.SimpleXMLRPCRequestHandler)
    dispatcher = xmlrpc.server.SimpleXMLRPCDispatcher(allow_none=True)
    dispatcher.register_function(lambda a, b: a + b, "add")
    view._marshaled_dispatch = dispatcher._marshaled_dispatch
    view.logRequests = False
    body = xmlrpc.client.dumps((2, 3), "add").encode()
    request = b"POST /RPC2 HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    handler = type("Plain", (xmlrpc.server.SimpleXMLRPCRequestHandler,), {"disable_nagle_algorithm": False})
    response, answer = parse(converse(adapt(handler, view), request), "POST")
    assert response.status == 200
    assert xmlrpc.client.loads(answer)[0] == (5,)


@pytest.mark.parametrize("sent", [b"", b"one\n", b"one\ntwo\nthree", b"x" * 300_000])
def test_contract(sent: bytes) -> None:
    """One handler body sends the same bytes on our base class and on the standard library's, both adapted."""

    def handle(self: Any) -> None:
        for line in self.rfile:
            self.wfile.write(line[::-1])
        self.wfile.write(repr((self.client_address, self.server.server_address)).encode())

    answers = [
        converse(adapted(type("Reverser", (base,), {"handle": handle})), sent)
        for base in (StreamRequestHandler, socketserver.StreamRequestHandler)
    ]
    assert answers[0] == answers[1]
    assert answers[0].endswith(b"(('127.0.0.1', 4711), ('127.0.0.1', 8000))")
