"""A PROXY header by hand: what a listener accepts, what opening does to the connection, and what can be set."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tricorn.deadline import Deadline
from tricorn.errors import (
    ConfigurationError,
    ConnectionLost,
    HandshakeTimeout,
    IncompatibleParts,
    MalformedHeader,
    PeerRefused,
    StateError,
)
from tricorn.names import transport
from tricorn.transports import TCP, TLS, UDP, Memory, ProxyProtocol, UnixStream

HEADER = b"PROXY TCP4 192.0.2.1 198.51.100.7 40000 443\r\n"
CLIENT = ("192.0.2.1", 40000)


def proxied(inner: Any = None, trusted: Any = "127.0.0.1", **options: Any) -> ProxyProtocol:
    """Around TCP on a free port, unless another transport is given."""
    return ProxyProtocol(inner or TCP("127.0.0.1", 0), trusted=trusted, **options)


def test_a_connection_that_was_opened_stays_in_its_process(loopback: Any) -> None:
    """Before that it can be handed over, since the header is still in the stream."""
    listener = loopback.listen(proxied())
    with socket.create_connection(listener.address) as client:
        client.sendall(HEADER)
        connection = loopback.accept(listener)
        assert len(connection.restorers) == 1
        connection.open(Deadline(None))
        connection.open(Deadline(None))
        assert connection.peer == CLIENT
        with pytest.raises(StateError, match="cannot be given to another"):
            _ = connection.restorers
        connection.finish(None)


@pytest.mark.parametrize(
    ("sent", "error"),
    [(b"HELO\r\n", MalformedHeader), (b"PROXY", HandshakeTimeout), (None, ConnectionLost)],
)
def test_what_open_raises_is_the_peers_doing(sent: Any, error: Any, loopback: Any) -> None:
    """Noted as such, and the timeout of the socket is what it was for who succeeds."""
    listener = loopback.listen(proxied(timeout=0.02))
    with socket.create_connection(listener.address) as client:
        connection = loopback.accept(listener)
        if sent is None:
            client.shutdown(socket.SHUT_WR)
        else:
            client.sendall(sent)
        with pytest.raises(error) as caught:
            connection.open(Deadline(None))
        assert connection.fault is caught.value
        connection.finish(caught.value)


def test_the_socket_is_left_as_it_was(loopback: Any) -> None:
    """Its timeout, and its notes: the header was no request."""
    listener = loopback.listen(proxied())
    with socket.create_connection(listener.address) as client:
        connection = loopback.accept(listener)
        client.sendall(HEADER)
        connection.open(Deadline.after(5))
        sock = connection.socket
        assert (sock.gettimeout(), sock.engaged, sock.received, sock.waiting) == (None, False, 0, False)
        connection.finish(None)


def test_refusing_leaves_no_descriptor(loopback: Any, open_descriptors: Any) -> None:
    """Of somebody who is not trusted."""
    listener = loopback.listen(proxied(trusted="192.0.2.1"))
    before = open_descriptors()
    with socket.create_connection(listener.address), pytest.raises(PeerRefused, match="not trusted"):
        loopback.accept(listener)
    assert open_descriptors() == before


# -- options


@pytest.mark.parametrize(
    ("peer", "trusted", "expected"),
    [
        (("127.0.0.1", 1), ["127.0.0.1"], True),
        (("127.0.0.2", 1), ["127.0.0.1"], False),
        (("10.255.0.1", 1), ["10.0.0.0/8"], True),
        (("11.0.0.1", 1), ["10.0.0.0/8"], False),
        (("::1", 1, 0, 0), ["::1"], True),
        (("::ffff:10.1.2.3", 1, 0, 0), ["10.0.0.0/8"], True),
        (("fe80::1%eth0", 1, 0, 2), ["fe80::/10"], True),
        (("127.0.0.1", 1), ["::/0", "unix"], False),
        ("", ["unix"], True),
        ("/run/client", ["unix"], True),
        (b"\0abstract", ["unix"], True),
        ("", ["0.0.0.0/0", "::/0"], False),
        (None, ["unix", "0.0.0.0/0"], False),
        ((2, 1024), ["0.0.0.0/0"], False),
        ((), ["0.0.0.0/0"], False),
    ],
)
def test_who_is_trusted(peer: Any, trusted: Any, expected: bool) -> None:
    """By the address that the kernel tells, and nothing else."""
    from tricorn.transports.proxy import _Trust

    assert (peer in _Trust(trusted)) is expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trusted": []}, "trusted must be addresses and networks"),
        ({"trusted": None}, "trusted must be addresses and networks"),
        ({"trusted": [1]}, "trusted must be addresses and networks"),
        ({"trusted": "localhost"}, "'localhost' does not appear to be"),
        ({"trusted": "10.1.0.0/8"}, "has host bits set"),
        ({"trusted": "*"}, "does not appear to be"),
        ({"timeout": 0}, "timeout must be"),
        ({"timeout": None}, "timeout must be"),
        ({"required": 1}, "required must be True or False"),
        ({"untrusted": "allow"}, "untrusted must be 'refuse' or 'pass'"),
        ({"inner": "tcp"}, "inner must be a transport"),
        ({"inner": UDP("127.0.0.1", 0)}, "UDP yields datagram requests"),
        ({"inner": Memory()}, "no proxy could connect to Memory"),
        ({"inner": TLS(TCP("127.0.0.1", 0), certfile="x")}, r"write TLS\(ProxyProtocol\(\.\.\.\)\)"),
    ],
)
def test_what_cannot_work_is_refused(options: Any, said: str) -> None:
    """When it is built, with what would work."""
    with pytest.raises(ConfigurationError, match=said):
        ProxyProtocol(**{"inner": TCP("127.0.0.1", 0), "trusted": "127.0.0.1", **options})


def test_whom_to_trust_has_to_be_said() -> None:
    """There is no default."""
    with pytest.raises(TypeError, match="trusted"):
        ProxyProtocol(TCP("127.0.0.1", 0))  # type: ignore[call-arg]


def test_tls_looks_through_it(tmp_path: Path) -> None:
    """At the transport below, whose way with urgent bytes it could not keep."""
    with pytest.raises(IncompatibleParts, match="urgent"):
        TLS(proxied(TCP("127.0.0.1", 0, urgent="refuse")), certfile=tmp_path / "a.pem")


def test_by_name() -> None:
    """With the options of both, and below TLS."""
    built = transport("proxy+tcp://127.0.0.1:0?trusted=127.0.0.1,10.0.0.0/8,unix&timeout=2&backlog=5")
    expected = ProxyProtocol(TCP("127.0.0.1", 0, backlog=5), trusted=("127.0.0.1", "10.0.0.0/8", "unix"), timeout=2.0)
    assert built == expected
    assert hash(built) == hash(expected)
    below = transport("tls+proxy+unix:/run/s?trusted=unix&certfile=a.pem")
    assert below == TLS(ProxyProtocol(UnixStream("/run/s"), trusted=["unix"]), certfile="a.pem")
    with pytest.raises(IncompatibleParts, match="write TLS"):
        transport("proxy+tls+tcp://127.0.0.1:0?trusted=127.0.0.1&certfile=a.pem")
    with pytest.raises(ConfigurationError, match="needs option 'trusted'"):
        transport("proxy+tcp://127.0.0.1:0")
