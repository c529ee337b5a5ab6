"""The same over TLS where a loop holds the connections."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import IncompatibleParts, Server, Status
from tricorn.authentication import ClientCertificate, SharedSecret
from tricorn.events import JobFinished
from tricorn.handlers import Lines, message
from tricorn.strategies import Asyncio, Selector, ThreadPool

LOOPS: dict[str, Callable[..., Any]] = {
    "selector": Selector,
    "selector-then": lambda: Selector(then=ThreadPool(2)),
    "asyncio": Asyncio,
    "parking": lambda: ThreadPool(2, park_idle=True),
}


@message(Lines())
def upper(line: bytes) -> bytes:
    return line.upper()


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Any:
    """Each dispatcher that holds connections without a thread for each."""
    return LOOPS[request.param]()


def outcome(recorder: Any) -> Any:
    return recorder.wait(JobFinished)[0].outcome


def exchange(client: socket.socket, lines: int) -> bool:
    sent = b"".join(b"line %d\n" % number for number in range(lines))
    client.sendall(sent)
    got = b""
    while len(got) < len(sent):
        got += client.recv(65536)
    return got == sent.upper()


def test_messages_go_both_ways(loop: Any, authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """Few and many, however the records are cut; several connections at once; the client sees a proper end."""
    server = serve(authority.tls(), loop, upper)
    clients = [call(server) for _ in range(5)]
    for lines in (1, 3000, 2):
        assert all(exchange(client, lines) for client in clients)
    for client in clients:
        client.suppress_ragged_eofs = False
        client.unwrap()
    assert {each.outcome.status for each in recorder.wait(JobFinished, 5)} == {Status.COMPLETED}


def test_a_record_with_more_than_one_read_takes_is_read_to_its_end(
    loop: Any, authority: Any, serve: Any, call: Any
) -> None:
    """What the encryption holds back makes no descriptor readable."""
    server = serve(authority.tls(), loop, upper)
    client = call(server)
    for _ in range(20):
        client.sendall(b"a" * 16_000 + b"\n" + b"b\n" * 150)
        got = b""
        while got.count(b"\n") < 151:
            got += client.recv(65536)
        assert got.endswith(b"B\n")


def test_plain_text_is_refused(loop: Any, authority: Any, serve: Any, dial: Any, call: Any, recorder: Any) -> None:
    """And nobody else notices."""
    server = serve(authority.tls(), loop, upper)
    other = call(server)
    dial(server).sendall(b"GET / HTTP/1.1\r\n\r\n")
    refused = outcome(recorder)
    assert refused.status is Status.REFUSED
    assert "plain HTTP to a TLS port" in str(refused.error)
    assert exchange(other, 3)


def test_a_client_that_refuses_our_certificate(loop: Any, authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """Is told of as that."""
    server = serve(authority.tls(), loop, upper)
    with pytest.raises(ssl.SSLCertVerificationError):
        call(server, ssl.create_default_context())
    assert outcome(recorder).status is Status.REFUSED
    assert "the peer refuses our certificate" in str(outcome(recorder).error)


def test_a_silent_client_delays_nobody(
    loop: Any, authority: Any, serve: Any, dial: Any, call: Any, recorder: Any
) -> None:
    """And a server that stops does not wait for it."""
    server = serve(authority.tls(), loop, upper)
    silent = [dial(server) for _ in range(1 if isinstance(loop, ThreadPool) else 20)]
    assert exchange(call(server), 3)
    report = server.drain(5)
    assert all(each.recv(1) == b"" for each in silent)
    assert report.duration < 4


@pytest.mark.parametrize("make", [Selector, Asyncio], ids=["selector", "asyncio"])
def test_a_handshake_has_its_time(make: Any, authority: Any, serve: Any, dial: Any, recorder: Any) -> None:
    """Then the connection is closed, as timed out."""
    server = serve(authority.tls(handshake_timeout=0.2), make(), upper)
    assert dial(server).recv(1) == b""
    assert outcome(recorder).status is Status.TIMED_OUT


def test_an_identity_by_certificate(loop: Any, authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """An authenticator that does not talk runs on a loop as well."""
    transport = authority.tls(client_certificates="required", client_ca=authority.file)
    server = serve(transport, loop, upper, authenticate=ClientCertificate(names="a.example"))
    for name, well in (("a.example", True), ("b.example", False)):
        context = authority.client()
        authority.ca.issue_cert(name).configure_cert(context)
        client = call(server, context)
        if well:
            assert exchange(client, 1)
            client.close()
        else:
            assert client.recv(1) == b""
    statuses = [each.outcome.status for each in recorder.wait(JobFinished, 2)]
    assert statuses == [Status.COMPLETED, Status.REFUSED]


@pytest.mark.parametrize("make", [Selector, Asyncio])
def test_one_that_talks_is_refused_on_a_loop(make: Any, authority: Any) -> None:
    """When the server is built."""
    with pytest.raises(IncompatibleParts, match="SharedSecret talks to the peer"):
        Server(authority.tls(), make(), upper, authenticate=SharedSecret(b"x" * 16))


def test_names_and_protocols_on_asyncio(authority: Any, serve: Any) -> None:
    """SNI and ALPN, as they are on a thread."""

    async def handler(connection: Any) -> None:
        inner = connection.connection if hasattr(connection, "connection") else connection
        text = f"{inner.server_name} {inner.alpn}".encode()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

    server = serve(authority.tls(alpn=("http/1.1",)), Asyncio(), handler)
    context = authority.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = http.client.HTTPSConnection("localhost", server.address[1], timeout=10, context=context)
    client.request("GET", "/")
    assert client.getresponse().read() == b"localhost http/1.1"
    client.close()
