"""TLS under Asyncio: the loop does the handshake, and the rest is as everywhere else."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any

import pytest

from tricorn import HandshakeError, HandshakeTimeout, Stage, Status
from tricorn.errors import AuthenticationError, ConnectionLost
from tricorn.events import JobFinished, JobRefused, JobStarted, ServerStopping
from tricorn.handlers import LengthPrefixed, Lines, message
from tricorn.strategies import Asyncio
from tricorn.testing.bounds import in_thread


async def echo(connection: Any) -> None:
    async for line in connection:
        await connection.send(line)


echo_messages = message(Lines())(lambda line: line)


def hear(client: Any, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return data


@pytest.mark.parametrize("handler", [echo, echo_messages], ids=["coroutine", "message"])
def test_conversation(loop: str, handler: Any, authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """Small, large, and an end that the peer sees as one."""
    server = serve(authority.tls(), Asyncio(loop=loop), handler)
    client = call(server)
    client.sendall(b"hello\n")
    assert hear(client, 6) == b"hello\n"
    long = b"x" * 50_000 + b"\n"
    client.sendall(long * 3)
    assert hear(client, 3 * len(long)) == long * 3
    client.unwrap().close()
    assert recorder.wait(JobFinished)[0].outcome.status is Status.COMPLETED
    report = server.drain()
    assert (report.accepted, report.completed) == (1, 1)


def test_much_to_a_slow_reader(loop: str, authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """Flow control holds through the encryption, and everything arrives before the end."""
    kept: list[int] = []

    async def pour(connection: Any) -> None:
        for _ in range(200):
            await connection.send(b"x" * 65_536)
            kept.append(connection.transport.get_write_buffer_size())

    client = call(serve(authority.tls(), Asyncio(loop=loop, high_water=100_000), pour))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    whole = 0
    while data := client.recv(65_536):
        whole += len(data)
    assert whole == 200 * 65_536
    assert recorder.wait(JobFinished)[0].outcome.status is Status.COMPLETED
    assert max(kept) < 2_000_000


def test_a_reader_that_rests(loop: str, authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """What the handler has left for sending is kept for a peer that takes its time."""
    resting = threading.Event()

    async def pour(connection: Any) -> None:
        connection.transport.write(b"x" * 10_000_000)

    client = call(serve(authority.tls(), Asyncio(loop=loop), pour))
    recorder.wait(JobStarted)
    whole = 0
    for _ in range(4):
        resting.wait(0.5)  # longer than one that has everything would get
        for _ in range(50):
            whole += len(client.recv(16_384))
    while data := client.recv(65_536):
        whole += len(data)
    assert whole == 10_000_000
    assert recorder.wait(JobFinished)[0].outcome.status is Status.COMPLETED


def test_who_it_is(loop: str, authority: Any, serve: Any, call: Any) -> None:
    """SNI, ALPN and the client's certificate are known to the handler, and before it to an authenticator."""
    seen: list[Any] = []

    def authenticate(connection: Any) -> str:
        return f"{connection.certificate['serialNumber']} by {connection.server_name}"

    async def handler(connection: Any) -> None:
        seen.append((connection.identity, connection.server_name, connection.alpn, connection.certificate))
        await connection.send(b"seen")

    transport = authority.tls(client_certificates="required", client_ca=authority.file, alpn=("two", "one"))
    server = serve(transport, Asyncio(loop=loop), handler, authenticate=authenticate)
    context = authority.client()
    context.load_cert_chain(*authority.issue("someone"))
    context.set_alpn_protocols(["one"])
    assert hear(call(server, context), 4) == b"seen"
    ((identity, name, alpn, certificate),) = seen
    assert (name, alpn) == ("localhost", "one")
    assert ("DNS", "someone") in certificate["subjectAltName"]
    assert identity == f"{certificate['serialNumber']} by localhost"


def test_turned_away(loop: str, authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """By an authenticator, after the handshake and before the handler."""

    def authenticate(connection: Any) -> None:
        raise AuthenticationError("nobody")

    client = call(serve(authority.tls(), Asyncio(loop=loop), echo, authenticate=authenticate))
    assert client.recv(1) == b""
    outcome = recorder.wait(JobFinished)[0].outcome
    assert (outcome.status, outcome.stage, str(outcome.error)) == (Status.REFUSED, Stage.OPEN, "nobody")


def test_a_silent_client(loop: str, authority: Any, serve: Any, dial: Any, call: Any, recorder: Any) -> None:
    """It delays nobody, and its time is over after ``handshake_timeout``."""
    server = serve(authority.tls(handshake_timeout=0.5), Asyncio(loop=loop), echo_messages)
    silent = dial(server)
    client = call(server)
    client.sendall(b"hello\n")
    assert hear(client, 6) == b"hello\n"
    assert silent.recv(1) == b""
    outcome = recorder.wait(JobFinished)[0].outcome
    assert (outcome.status, outcome.stage) == (Status.TIMED_OUT, Stage.OPEN)
    assert isinstance(outcome.error, HandshakeTimeout)
    assert str(outcome.error) == "the TLS handshake was not over after 0.5 s"


def test_plain_text(loop: str, authority: Any, serve: Any, dial: Any, recorder: Any) -> None:
    """Is refused with what the peer did."""
    plain = dial(serve(authority.tls(), Asyncio(loop=loop), echo))
    plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    while plain.recv(100):
        pass  # an alert, and then the end
    outcome = recorder.wait(JobFinished)[0].outcome
    assert (outcome.status, outcome.stage) == (Status.REFUSED, Stage.OPEN)
    assert isinstance(outcome.error, HandshakeError)
    assert "plain HTTP to a TLS port" in str(outcome.error)


def test_a_client_that_leaves(loop: str, authority: Any, serve: Any, dial: Any, recorder: Any) -> None:
    """In the middle of the handshake: nobody's failure."""
    server = serve(authority.tls(), Asyncio(loop=loop), echo)
    client = dial(server)
    recorder.wait(JobStarted)
    client.close()
    outcome = recorder.wait(JobFinished)[0].outcome
    assert outcome.status is Status.DISCONNECTED
    assert isinstance(outcome.error, ConnectionLost)


def test_a_client_that_refuses_us(loop: str, authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """It does not know our authority."""
    server = serve(authority.tls(), Asyncio(loop=loop), echo)
    with pytest.raises(ssl.SSLCertVerificationError):
        call(server, ssl.create_default_context())
    outcome = recorder.wait(JobFinished)[0].outcome
    assert (outcome.status, outcome.stage) == (Status.REFUSED, Stage.OPEN)
    assert "refuses our certificate" in str(outcome.error)


@pytest.mark.parametrize("handler", [echo, echo_messages], ids=["coroutine", "message"])
def test_drain(loop: str, handler: Any, authority: Any, serve: Any, dial: Any, call: Any, recorder: Any) -> None:
    """Idle clients are ended at once, in order; one in its handshake is turned away."""
    server = serve(authority.tls(), Asyncio(loop=loop), handler)
    clients = [call(server) for _ in range(3)]
    for client in clients:
        client.sendall(b"hello\n")
        assert hear(client, 6) == b"hello\n"
    silent = dial(server)
    recorder.wait(JobStarted, 4)
    with in_thread(lambda: server.drain(8), "a drain") as reports:
        for client in clients:
            assert client.recv(1) == b""  # by close_notify, or it would be an error
            client.close()
        assert silent.recv(1) == b""
    (report,) = reports
    assert (report.completed, report.refused) == (3, 1)
    assert report.clean
    assert "before it was open" in (recorder.of(JobRefused) or recorder.of(JobFinished))[0].outcome.detail


def test_half_a_message(loop: str, authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """One that has begun a message when the server stops may finish it."""
    server = serve(authority.tls(), Asyncio(loop=loop), message(LengthPrefixed(1))(lambda data: data))
    client = call(server)
    client.sendall(b"\x01x\x04ab")
    assert hear(client, 2) == b"\x01x"
    with in_thread(lambda: server.drain(8), "a drain") as reports:
        recorder.wait(ServerStopping)
        client.sendall(b"cd")
        assert hear(client, 5) == b"\x04abcd"
        assert client.recv(1) == b""
        client.close()
    assert reports[0].completed == 1


def test_a_client_that_does_not_say_goodbye(loop: str, authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """One that keeps its end open holds up nobody for longer than a second."""

    async def leave(connection: Any) -> None:
        await connection.send(b"bye")

    client = call(serve(authority.tls(), Asyncio(loop=loop), leave))
    assert hear(client, 3) == b"bye"
    assert recorder.wait(JobFinished)[0].outcome.status is Status.COMPLETED
    client.close()


def test_cut_off(loop: str, authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """At the deadline, in the handler and in the handshake."""

    async def wait(connection: Any) -> None:
        await connection.send(b"here")
        await connection.recv()

    server = serve(authority.tls(), Asyncio(loop=loop), wait)
    client = call(server)
    client.sendall(b"x")
    assert hear(client, 4) == b"here"
    assert server.close() is None
    try:
        assert client.recv(1) == b""
    except (ConnectionError, ssl.SSLError):
        pass
    assert server.report.accepted == 1
    assert not server.report.abandoned
