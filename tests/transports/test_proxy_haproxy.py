"""Behind a real HAProxy."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from tricorn import Server
from tricorn.events import JobFinished, JobRefused, Status
from tricorn.strategies import Asyncio, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, TLS, ProxyProtocol, UnixStream

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="there is no haproxy on this machine (apt install haproxy)")

CONFIGURATION = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 10s
    timeout server 10s
frontend front
    bind fd@{fd} {bind}
    unique-id-format %{{+X}}o%ci:%cp
    default_backend back
backend back
    server ours {target} {options}
"""


def tell(connection: Any) -> None:
    """Says who is there."""
    first = connection.recv(100)
    header = connection.proxy_header
    said = header and (header.version, header.authority, header.alpn, header.unique_id, header.tlv(3) is not None)
    connection.send(repr((connection.peer, connection.local, said, first)).encode())


async def tell_later(connection: Any) -> None:
    """The same as a coroutine."""
    first = await connection.recv(100)
    header = connection.proxy_header
    said = header and (header.version, header.authority, header.alpn, header.unique_id, header.tlv(3) is not None)
    await connection.send(repr((connection.peer, connection.local, said, first)).encode())


@pytest.fixture
def recorder() -> Recorder:
    """An observer that keeps what it is told."""
    return Recorder()


@pytest.fixture
def behind(recorder: Recorder, tmp_path: Path, nothing_left_behind: None) -> Iterator[Callable[..., Any]]:
    """Start a server, and an HAProxy in front of it; returns the server and how to connect to HAProxy."""
    with ExitStack() as opened:

        def start(transport: Any, options: str, *, bind: str = "", dispatcher: Any = None, handler: Any = tell) -> Any:
            server = Server(transport, dispatcher or ThreadPool(4), handler, observers=[recorder], log=False)
            opened.callback(server.close)
            server.start()
            front = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
            address = server.address
            target = f"unix@{address}" if isinstance(address, str) else f"127.0.0.1:{address[1]}"
            text = CONFIGURATION.format(fd=front.fileno(), bind=bind, target=target, options=options)
            (tmp_path / "haproxy.cfg").write_text(text)
            program = subprocess.Popen(
                [str(HAPROXY), "-db", "-f", str(tmp_path / "haproxy.cfg")],
                pass_fds=[front.fileno()], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            opened.callback(program.wait)
            opened.callback(program.kill)

            def connect() -> socket.socket:
                client = opened.enter_context(socket.create_connection(front.getsockname(), timeout=10))
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return client

            return server, connect

        yield start


def ask(client: Any) -> Any:
    """What the handler says to a hello."""
    client.sendall(b"hello\n")
    return eval(client.recv(1000))


@pytest.mark.parametrize(
    ("options", "version", "checked"),
    [
        ("send-proxy", 1, False),
        ("send-proxy-v2", 2, False),
        ("send-proxy-v2 proxy-v2-options crc32c,unique-id", 2, True),
    ],
)
@pytest.mark.parametrize("shape", ["thread-pool", "asyncio"])
def test_the_client_is_known(shape: str, options: str, version: int, checked: bool, behind: Any) -> None:
    """As HAProxy saw it, and where it had connected to; its checksum is right."""
    way = {"dispatcher": Asyncio(), "handler": tell_later} if shape == "asyncio" else {}
    _, connect = behind(ProxyProtocol(TCP("127.0.0.1", 0), trusted=["127.0.0.1"]), options, **way)
    client = connect()
    peer, local, said, first = ask(client)
    assert (peer, local, first) == (client.getsockname(), client.getpeername(), b"hello\n")
    assert said[0] == version
    assert said[4] is checked
    assert (said[3] is not None) is checked


def test_what_was_agreed_with_the_client(behind: Any, tmp_path: Path) -> None:
    """Where HAProxy speaks TLS with it: the name that it asked for, and the protocol."""
    ca = trustme.CA()
    ca.issue_cert("example.org").private_key_and_cert_chain_pem.write_to_path(tmp_path / "front.pem")
    transport = ProxyProtocol(TCP("127.0.0.1", 0), trusted=["127.0.0.1"])
    options = "send-proxy-v2 proxy-v2-options authority,crc32c,ssl"
    _, connect = behind(transport, options, bind=f"ssl crt {tmp_path / 'front.pem'} alpn h2")
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    ca.configure_trust(context)
    with context.wrap_socket(connect(), server_hostname="example.org") as client:
        peer, _, said, _ = ask(client)
        assert peer == client.getsockname()
        assert said[:3] == (2, "example.org", "h2")


def test_tls_through_the_proxy(behind: Any, tmp_path: Path) -> None:
    """Which passes on what it cannot read; the header comes before the handshake."""
    ca = trustme.CA()
    ca.issue_cert("example.org").private_key_and_cert_chain_pem.write_to_path(tmp_path / "ours.pem")
    below = ProxyProtocol(TCP("127.0.0.1", 0), trusted=["127.0.0.1"])
    _, connect = behind(TLS(below, certfile=tmp_path / "ours.pem"), "send-proxy-v2")
    context = ssl.create_default_context()
    ca.configure_trust(context)
    with context.wrap_socket(connect(), server_hostname="example.org") as client:
        assert ask(client)[0] == client.getsockname()


def test_over_a_unix_socket(behind: Any, tmp_path: Path) -> None:
    """Between HAProxy and us; the client came by TCP."""
    transport = ProxyProtocol(UnixStream(tmp_path / "ours"), trusted=["unix"])
    _, connect = behind(transport, "send-proxy-v2")
    client = connect()
    peer, local, _, _ = ask(client)
    assert (peer, local) == (client.getsockname(), client.getpeername())


def test_health_checks(behind: Any, recorder: Recorder) -> None:
    """HAProxy's own connections, which say that they are for nobody, or say nothing: no failure of ours."""
    transport = ProxyProtocol(TCP("127.0.0.1", 0), trusted=["127.0.0.1"])
    behind(transport, "send-proxy-v2 check inter 20ms fastinter 20ms")
    told = recorder.wait(JobFinished, 3)
    assert {each.outcome.status for each in told} <= {Status.COMPLETED, Status.DISCONNECTED}


def test_a_proxy_that_is_not_trusted(behind: Any, recorder: Recorder) -> None:
    """Gets nothing through, whatever it says."""
    _, connect = behind(ProxyProtocol(TCP("127.0.0.1", 0), trusted=["192.0.2.1"]), "send-proxy")
    assert connect().recv(1) == b""
    assert recorder.wait(JobRefused)[0].outcome.detail == "a peer that is not trusted to send a PROXY header"


def test_a_proxy_that_was_not_told_to(behind: Any, recorder: Recorder) -> None:
    """Send a header: what the client sends is none."""
    _, connect = behind(ProxyProtocol(TCP("127.0.0.1", 0), trusted=["127.0.0.1"]), "")
    client = connect()
    client.sendall(b"hello\n")
    assert client.recv(1) == b""
    assert "sent no PROXY header" in str(recorder.wait(JobFinished)[0].outcome.error)
