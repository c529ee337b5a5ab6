"""Route under TLS: the hello decides, and the handshake happens where the request is sent."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from tricorn import Connection, Server
from tricorn.client_hello import read_client_hello
from tricorn.events import JobStarted
from tricorn.peeking import peek
from tricorn.strategies import Fork, ProcessPool, Route, Sync, Thread, ThreadPool


def by_hello(connection: Connection) -> str | None:
    found = read_client_hello(peek(connection, 16384))
    if found is None:
        return None
    return "heavy" if found.server_name == "localhost" and "h2" in found.protocols else "light"


def tell(connection: Connection) -> None:
    """The process, the protocol that was agreed on, and what was said."""
    connection.send(f"{os.getpid()} {connection.alpn} {connection.recv(100).decode()}".encode())


def ask(authority: Any, address: Any, *protocols: str) -> list[str]:
    context = authority.client()
    context.set_alpn_protocols(protocols)
    plain = socket.create_connection(address, timeout=10)
    with context.wrap_socket(plain, server_hostname="localhost") as client:
        client.sendall(b"hello")
        heard = b""
        while data := client.recv(100):
            heard += data
    return heard.decode().split()


def test_an_open_connection_is_peeked_at_in_the_clear(authority: Any) -> None:
    """By its handler, as often as that likes; nothing is consumed."""

    def look(connection: Connection) -> None:
        while not peek(connection, 10, timeout=10):
            pass  # the end of the handshake is bytes, too, and nobody's data
        assert peek(connection, 2) == b"he"
        connection.send(peek(connection, 10) + b" " + connection.recv(10))

    with Server(authority.tls(), Thread(), look, log=False) as server:
        server.start()
        assert ask(authority, server.address, "h2") == ["hello", "hello"]


@pytest.mark.parametrize(
    ("light", "heavy"), [(Sync, Fork), (Thread, ThreadPool), (Sync, lambda: ProcessPool(1))], ids=str
)
def test_the_hello_decides(authority: Any, recorder: Any, light: Any, heavy: Any) -> None:
    """By name and protocol; clients that have not said theirs hold up nobody, and end with the server."""
    route = Route(by_hello, peek=16384, light=light(), heavy=heavy())
    transport = authority.tls(alpn=("h2", "http/1.1"))
    with Server(transport, route, tell, observers=[recorder], log=False) as server:
        server.start()
        silent = socket.create_connection(server.address, timeout=10)
        begun = socket.create_connection(server.address, timeout=10)
        begun.sendall(b"\x16\x03\x01")
        recorder.wait(JobStarted, 2)
        one, two = ask(authority, server.address, "http/1.1"), ask(authority, server.address, "h2")
        report = server.drain()
    assert (one[1:], two[1:]) == (["http/1.1", "hello"], ["h2", "hello"])
    assert (one[0] == two[0]) == (light is Thread)
    assert (report.completed, report.refused, report.clean) == (3, 1, True)
    silent.close()
    begun.close()
